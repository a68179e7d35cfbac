//! The programs behind the services: where each is found, and how it is installed.

mod install;

use std::path::PathBuf;

pub use install::{Progress, install, install_all};

use crate::Missing;

/// A program, or a set of programs built together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tool {
    /// Azure Blob storage (`azurite-blob`), from npm.
    Azurite,
    /// S3 on a folder, built with Go.
    Versitygw,
    /// S3 in memory that takes any key, from the Python package index.
    Moto,
    /// A peer of benchmarks: copies from stores in several streams, built with Go.
    Rclone,
    /// A peer of benchmarks: the AWS command line, from the Python package index.
    AwsCli,
    /// A judge of images, built with Go.
    Crane,
    /// The programs of Kubernetes in one folder, built with Go.
    Kubernetes,
    /// The Docker registry, from Debian.
    DockerRegistry,
    /// The same code base's current release (`registry`), built with Go.
    Distribution,
    /// A registry in memory with the referrers API, built with Go.
    ReferrersRegistry,
    /// Writer of password files (`htpasswd`), from Debian.
    Htpasswd,
    /// The store behind Kubernetes, from Debian.
    Etcd,
    /// The container runtime of the node, from Debian.
    Containerd,
    /// The low-level container runtime, from Debian.
    Runc,
    /// The network plugins of the node, from Debian.
    CniPlugins,
    /// Packet filter rules, from Debian.
    Iptables,
    /// Network interfaces (`ip`), from Debian.
    Iproute,
    /// Connection tracking entries, from Debian.
    Conntrack,
    /// Port forwarding of the node, from Debian.
    Socat,
    /// A judge of images, from Debian.
    Skopeo,
    /// A judge of images, from Debian.
    Umoci,
    /// A judge of images, from Debian.
    Podman,
    /// Counts instructions for a benchmark, from Debian.
    Valgrind,
    /// A judge of archives, from Debian.
    Bsdtar,
}

/// How a tool comes to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// An npm package, with its program.
    Npm {
        package: &'static str,
        version: &'static str,
        program: &'static str,
    },
    /// A Python package, installed with all that it needs into a folder of its own.
    Pip {
        package: &'static str,
        version: &'static str,
        program: &'static str,
    },
    /// A Go package, which gives one program named after its last element.
    Go {
        package: &'static str,
        version: &'static str,
        program: &'static str,
    },
    /// The registry with referrers, built from the module beside this crate.
    Referrers,
    /// The six programs of Kubernetes, built from the module beside this crate.
    Kubernetes,
    /// A Debian package, recognised by one of its files: a program, or an absolute path.
    Debian {
        package: &'static str,
        file: &'static str,
    },
}

/// The version of Kubernetes.
pub(crate) const KUBERNETES: &str = "1.36.3";
/// The version of the registry's package, and of our program around it: the cache is keyed by it.
const REFERRERS: &str = "0.22.1-1";

impl Tool {
    /// The tools that tests need, in the order in which they are installed. Peers of benchmarks
    /// are not among them: a benchmark installs them itself.
    pub const ALL: [Self; 22] = [
        Self::DockerRegistry,
        Self::Htpasswd,
        Self::Etcd,
        Self::Containerd,
        Self::Runc,
        Self::CniPlugins,
        Self::Iptables,
        Self::Iproute,
        Self::Conntrack,
        Self::Socat,
        Self::Skopeo,
        Self::Umoci,
        Self::Podman,
        Self::Valgrind,
        Self::Bsdtar,
        Self::Azurite,
        Self::Crane,
        Self::Versitygw,
        Self::Moto,
        Self::Distribution,
        Self::ReferrersRegistry,
        Self::Kubernetes,
    ];

    /// The tool's name in messages and in the cache.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Azurite => "azurite",
            Self::Versitygw => "versitygw",
            Self::Moto => "moto",
            Self::Rclone => "rclone",
            Self::AwsCli => "awscli",
            Self::Crane => "crane",
            Self::Kubernetes => "kubernetes",
            Self::DockerRegistry => "docker-registry",
            Self::Distribution => "distribution",
            Self::ReferrersRegistry => "referrers-registry",
            Self::Htpasswd => "htpasswd",
            Self::Etcd => "etcd",
            Self::Containerd => "containerd",
            Self::Runc => "runc",
            Self::CniPlugins => "cni-plugins",
            Self::Iptables => "iptables",
            Self::Iproute => "iproute2",
            Self::Conntrack => "conntrack",
            Self::Socat => "socat",
            Self::Skopeo => "skopeo",
            Self::Umoci => "umoci",
            Self::Podman => "podman",
            Self::Valgrind => "valgrind",
            Self::Bsdtar => "bsdtar",
        }
    }

    pub(crate) const fn source(self) -> Source {
        const fn debian(package: &'static str, file: &'static str) -> Source {
            Source::Debian { package, file }
        }
        match self {
            Self::Azurite => Source::Npm {
                package: "azurite",
                version: "3.37.0",
                program: "azurite-blob",
            },
            Self::Versitygw => Source::Go {
                package: "github.com/versity/versitygw/cmd/versitygw",
                version: "1.8.0",
                program: "versitygw",
            },
            Self::Moto => Source::Pip {
                package: "moto[server,s3]",
                version: "5.2.5",
                program: "moto_server",
            },
            Self::Rclone => Source::Go {
                package: "github.com/rclone/rclone",
                version: "1.76.0",
                program: "rclone",
            },
            Self::AwsCli => Source::Pip {
                package: "awscli",
                version: "1.44.0",
                program: "aws",
            },
            Self::Crane => Source::Go {
                package: "github.com/google/go-containerregistry/cmd/crane",
                version: "0.22.1",
                program: "crane",
            },
            Self::Distribution => Source::Go {
                package: "github.com/distribution/distribution/v3/cmd/registry",
                version: "3.1.2",
                program: "registry",
            },
            Self::ReferrersRegistry => Source::Referrers,
            Self::Kubernetes => Source::Kubernetes,
            Self::DockerRegistry => debian("docker-registry", "docker-registry"),
            Self::Htpasswd => debian("apache2-utils", "htpasswd"),
            Self::Etcd => debian("etcd-server", "etcd"),
            Self::Containerd => debian("containerd", "containerd"),
            Self::Runc => debian("runc", "runc"),
            Self::CniPlugins => debian("containernetworking-plugins", "/usr/lib/cni/bridge"),
            Self::Iptables => debian("iptables", "iptables"),
            Self::Iproute => debian("iproute2", "ip"),
            Self::Conntrack => debian("conntrack", "conntrack"),
            Self::Socat => debian("socat", "socat"),
            Self::Skopeo => debian("skopeo", "skopeo"),
            Self::Umoci => debian("umoci", "umoci"),
            Self::Podman => debian("podman", "podman"),
            Self::Valgrind => debian("valgrind", "valgrind"),
            Self::Bsdtar => debian("libarchive-tools", "bsdtar"),
        }
    }

    /// The folder of the tool in the cache, for a tool that is kept there.
    pub(crate) fn cache_folder(self) -> Option<PathBuf> {
        let version = match self.source() {
            Source::Npm { version, .. }
            | Source::Pip { version, .. }
            | Source::Go { version, .. } => version,
            Source::Kubernetes => KUBERNETES,
            Source::Referrers => REFERRERS,
            Source::Debian { .. } => return None,
        };
        Some(cache()?.join(format!("{}-{version}", self.name())))
    }
}

/// Finds a tool on `PATH`, in the folders of system programs, or in the cache; installs nothing.
///
/// For [`Tool::Kubernetes`] it is the folder of the programs, else the program.
///
/// # Errors
/// When the tool is in none of these places.
pub fn path(tool: Tool) -> Result<PathBuf, Missing> {
    let cached = tool.cache_folder();
    let found = match tool.source() {
        Source::Debian { file, .. } if file.starts_with('/') => Some(PathBuf::from(file)),
        Source::Debian { file, .. } => program(file),
        Source::Kubernetes => cached,
        // npm's own link: `PATH` may hold another version.
        Source::Npm { program, .. } => {
            cached.map(|dir| dir.join("node_modules/.bin").join(program))
        }
        Source::Pip { program, .. } => cached.map(|dir| dir.join("bin").join(program)),
        Source::Go { program, .. } => cached.map(|dir| dir.join(program)),
        Source::Referrers => cached.map(|dir| dir.join(tool.name())),
    };
    found.filter(|path| path.exists()).ok_or_else(|| {
        let origin = match tool.source() {
            Source::Debian { package, .. } => format!("Debian package {package}"),
            Source::Npm { package, .. } => format!("npm package {package}"),
            Source::Pip { package, .. } => format!("Python package {package}"),
            Source::Go { package, .. } => format!("Go package {package}"),
            Source::Kubernetes | Source::Referrers => "built with Go".to_owned(),
        };
        Missing::absent(tool.name(), format!("not installed ({origin})"))
    })
}

/// Where Python finds the modules of a tool that is a Python package: its `PYTHONPATH`.
pub fn python_path(tool: Tool) -> Option<PathBuf> {
    matches!(tool.source(), Source::Pip { .. })
        .then(|| tool.cache_folder())
        .flatten()
}

/// Finds a program on `PATH` or in the folders of system programs, which users often lack there.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(system);
    folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The folder of built tools: `MODELSHIP_TESTKIT_CACHE`, else in the user's cache.
pub(crate) fn cache() -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    variable("MODELSHIP_TESTKIT_CACHE").or_else(|| {
        let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        Some(caches?.join("modelship-testkit"))
    })
}
