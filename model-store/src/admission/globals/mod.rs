//! The globals that a pickle may import: an allow-list of exact names.
//!
//! A pickle chooses what is called, with which arguments, and which state an instance gets. A
//! global is on the list only if it does no harm with *any* arguments and *any* state, as long as
//! every other global that the pickle can name is on the list too. That excludes much that looks
//! innocent: `scipy.stats` distributions build their methods with `exec`, `numpy`'s
//! `_ufunc_reconstruct` looks up any attribute of any module, `torch.hub` and
//! `torch.serialization` load other pickles, `functools.partial` and `operator` call what they are
//! given. Types that reach memory are only named: `numpy.ndarray` can be made over any buffer, with
//! elements that are pointers, and `numpy.memmap` truncates files. Whole packages are never allowed: every scanner that did was led around through a test
//! helper or a debugger. Names with dots are refused before they come here.

mod python;
mod sklearn;
mod torch;

/// How a global may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// In any way.
    Any,
    /// In any way; the result may be a text.
    Text,
    /// In any way, as the policy says; nothing is known about what it gives.
    Extra,
    /// Named, and instances made of it, but not called.
    Data,
    /// Only named, as an argument or a value.
    Named,
    /// A class of torch's storages, named in an id of a storage; the size of its elements.
    Storage(u8),
    /// `numpy.dtype`.
    Dtype,
    /// A numpy scalar from a dtype, which must not be one of objects, and bytes.
    Scalar,
    /// joblib's stand-in for an array.
    ArrayClass,
    /// A text and the name of a codec, which must be one that only encodes text.
    Codec,
    /// A class, the class to make the instance with, and a value for that.
    Reconstructor,
    /// Calls the `__new__` of its first argument, which must be a global that may be made.
    Class,
    /// Calls its second argument, which must be a global of [`Rule::Any`], where it is given.
    Constructor,
    /// Gives back its first argument.
    Identity,
    /// A function that is called with the arguments in the third argument, and a class.
    FromType,
}

impl Rule {
    /// Whether `__new__` of the global may be called.
    pub(super) fn makes_instances(self) -> bool {
        matches!(self, Self::Any | Self::Data | Self::Text | Self::Extra)
    }
}

/// Names of one module with one rule.
type Names = (&'static str, Rule, &'static [&'static str]);

/// How a global may be used; `None` if it may not be imported.
pub(super) fn rule(module: &str, name: &str) -> Option<Rule> {
    let listed = |lists: &'static [Names]| {
        let mut lists = lists.iter().filter(|(of, _, _)| *of == module);
        lists
            .find(|(_, _, names)| names.contains(&name))
            .map(|(_, rule, _)| *rule)
    };
    match module.split('.').next()? {
        // What TorchScript's own interpreter defines; no such module can be imported in Python.
        "__torch__" => Some(Rule::Data),
        "sklearn" => listed(sklearn::EXACT).or_else(|| sklearn::rule(module, name)),
        "torch" => torch::storage(module, name)
            .or_else(|| listed(torch::EXACT))
            .or_else(|| torch::layer(module, name)),
        _ => listed(python::EXACT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gadgets from public advisories against other scanners, and neighbours of what is allowed.
    const DENIED: &[(&str, &str)] = &[
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "compile"),
        ("builtins", "getattr"),
        ("builtins", "setattr"),
        ("builtins", "__import__"),
        ("builtins", "type"),
        ("builtins", "map"),
        ("builtins", "open"),
        ("builtins", "breakpoint"),
        ("__builtin__", "eval"),
        ("__builtin__", "apply"),
        ("__builtin__", "reduce"),
        ("__builtin__", "execfile"),
        ("copyreg", "add_extension"),
        ("copyreg", "__reduce_ex__"),
        ("functools", "partial"),
        ("functools", "reduce"),
        ("operator", "attrgetter"),
        ("operator", "methodcaller"),
        ("_operator", "attrgetter"),
        ("types", "FunctionType"),
        ("types", "CodeType"),
        ("code", "InteractiveInterpreter"),
        ("timeit", "timeit"),
        ("profile", "run"),
        ("cProfile", "run"),
        ("cProfile", "runctx"),
        ("trace", "Trace"),
        ("bdb", "Bdb"),
        ("pdb", "run"),
        ("doctest", "debug_script"),
        ("runpy", "run_path"),
        ("pip", "main"),
        ("pip._internal", "main"),
        ("ensurepip", "_run_pip"),
        ("pkgutil", "resolve_name"),
        ("importlib", "import_module"),
        ("marshal", "loads"),
        ("pickle", "loads"),
        ("_pickle", "loads"),
        ("cPickle", "loads"),
        ("pty", "spawn"),
        ("webbrowser", "open"),
        ("logging.config", "listen"),
        ("logging", "FileHandler"),
        ("shutil", "rmtree"),
        ("ctypes", "CDLL"),
        ("socket", "create_connection"),
        ("requests", "get"),
        ("aiohttp.client", "request"),
        ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
        ("asyncio.unix_events", "_UnixSubprocessTransport"),
        ("idlelib.autocomplete", "AutoComplete"),
        ("idlelib.pyshell", "ModifiedInterpreter"),
        ("idlelib.run", "Executive"),
        ("idlelib.calltip", "get_entity"),
        ("lib2to3.pgen2.pgen", "ParserGenerator"),
        ("lib2to3.pgen2.grammar", "Grammar"),
        ("distutils.file_util", "write_file"),
        ("_pyrepl.pager", "pipe_pager"),
        ("uuid", "_get_command_stdout"),
        ("imaplib", "IMAP4_stream"),
        ("smtplib", "SMTP"),
        ("sqlite3", "connect"),
        ("linecache", "getline"),
        ("dill", "loads"),
        ("cloudpickle.cloudpickle", "_builtin_type"),
        ("cloudpickle.cloudpickle", "_make_function"),
        ("collections", "namedtuple"),
        ("numpy", "load"),
        ("numpy", "f2py"),
        ("numpy.f2py.crackfortran", "getlincoef"),
        ("numpy.f2py.crackfortran", "_eval_length"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.testing", "rundocs"),
        ("numpy.core", "_ufunc_reconstruct"),
        ("numpy._core", "_ufunc_reconstruct"),
        ("numpy.core._internal", "_ufunc_reconstruct"),
        ("numpy.lib.npyio", "load"),
        ("numpy.distutils.exec_command", "exec_command"),
        ("numpy.distutils.cpuinfo", "getoutput"),
        ("scipy.stats._continuous_distns", "norm_gen"),
        ("scipy.stats._distn_infrastructure", "rv_frozen"),
        ("pandas", "read_pickle"),
        ("pandas", "eval"),
        ("pandas.io.pickle", "read_pickle"),
        ("pandas.core.computation.eval", "eval"),
        ("sklearn.utils.parallel", "Parallel"),
        ("sklearn.ensemble._forest", "Parallel"),
        ("sklearn.datasets", "fetch_openml"),
        ("sklearn.linear_model.tests.test_base", "LinearRegression"),
        ("sklearn.externals.joblib", "load"),
        ("sklearn.base", "clone"),
        ("sklearn.utils._testing", "assert_run_python_script"),
        ("sklearn.linear_model", "os"),
        ("sklearn.linear_model._base.np", "LinearRegression.x"),
        ("joblib", "load"),
        ("joblib.numpy_pickle", "load"),
        ("joblib.numpy_pickle", "NDArrayWrapper"),
        ("joblib.numpy_pickle_compat", "ZNDArrayWrapper"),
        ("joblib.parallel", "Parallel"),
        ("joblib.memory", "Memory"),
        ("torch", "load"),
        ("torch", "hub"),
        ("torch.hub", "load"),
        ("torch.serialization", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.jit", "load"),
        ("torch.jit.unsupported_tensor_ops", "execWrapper"),
        ("torch.utils.collect_env", "run"),
        ("torch.utils.bottleneck.__main__", "run_cprofile"),
        ("torch.utils.data.datapipes.utils.decoder", "basichandlers"),
        ("torch.utils._config_module", "ConfigModule.load_config"),
        ("torch.fx.graph_module", "reduce_graph_module"),
        (
            "torch.fx.experimental.symbolic_shapes",
            "ShapeEnv.evaluate_guards_expression",
        ),
        ("torch._dynamo.guards", "GuardBuilder.get"),
        ("torch._inductor.codecache", "compile_file"),
        ("torch.distributed.rpc", "rpc_sync"),
        ("torch.package", "PackageImporter"),
        ("torch.nn.modules.linear", "init"),
        ("torch.nn.modules.module", "functools"),
        ("torch.nn.modules.container", "operator"),
        ("transformers.utils", "logging"),
        ("", ""),
        ("builtins", ""),
    ];

    #[test]
    fn known_gadgets_and_neighbours_are_denied() {
        for (module, name) in DENIED {
            assert_eq!(rule(module, name), None, "{module}.{name}");
        }
    }

    #[test]
    fn everyday_models_are_allowed() {
        for (module, name) in [
            ("builtins", "set"),
            ("__builtin__", "object"),
            ("collections", "OrderedDict"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("scipy.sparse._csr", "csr_matrix"),
            ("pandas.core.frame", "DataFrame"),
            ("sklearn.linear_model._logistic", "LogisticRegression"),
            ("sklearn.linear_model.logistic", "LogisticRegression"),
            ("sklearn.tree._tree", "Tree"),
            ("sklearn.pipeline", "Pipeline"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "float16"),
            ("torch.nn.modules.linear", "Linear"),
        ] {
            assert!(rule(module, name).is_some(), "{module}.{name}");
        }
        assert_eq!(rule("torch", "HalfStorage"), Some(Rule::Storage(2)));
    }
}
