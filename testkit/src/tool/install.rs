//! Installing the tools, through the machine's ordinary package managers and nothing else.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::{KUBERNETES, Source, Tool, cache, path, program};
use crate::Missing;
use crate::process::Launch;

/// The Go module that pins Kubernetes.
const KUBERNETES_MODULE: [(&str, &str); 2] = [
    ("go.mod", include_str!("../../kubernetes/go.mod")),
    ("go.sum", include_str!("../../kubernetes/go.sum")),
];
/// The Go module that is the registry with referrers.
const REFERRERS_MODULE: [(&str, &str); 3] = [
    ("go.mod", include_str!("../../referrers-registry/go.mod")),
    ("go.sum", include_str!("../../referrers-registry/go.sum")),
    ("main.go", include_str!("../../referrers-registry/main.go")),
];
const KUBERNETES_PROGRAMS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// Told what begins, in words for a person: the Kubernetes build takes minutes.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// Installs a tool unless it is there, and gives its [path](super::path).
///
/// Debian packages need root. The others are built into the cache under a temporary name and
/// renamed, under a lock, so that a killed or a second build leaves nothing half-made.
///
/// # Errors
/// When a package manager is missing or fails, or this user may not use it.
pub fn install(tool: Tool, progress: Progress<'_>) -> Result<PathBuf, Missing> {
    if let Ok(path) = path(tool) {
        return Ok(path);
    }
    match tool.source() {
        Source::Debian { package, .. } => debian(tool, package, progress)?,
        _ => build(tool, progress)?,
    }
    path(tool).map_err(|_| broken(tool, "installed, and yet not found"))
}

/// Installs all tools; one that fails does not keep the others from being tried.
pub fn install_all(progress: Progress<'_>) -> Vec<(Tool, Result<PathBuf, Missing>)> {
    Tool::ALL
        .into_iter()
        .map(|tool| (tool, install(tool, progress)))
        .collect()
}

fn debian(tool: Tool, package: &str, progress: Progress<'_>) -> Result<(), Missing> {
    let apt = program("apt-get").ok_or_else(|| Missing::absent(tool.name(), "no apt-get"))?;
    if !rustix::process::geteuid().is_root() {
        let reason = format!("installing the Debian package {package} needs root");
        return Err(Missing::absent(tool.name(), reason));
    }
    let log = tempfile::NamedTempFile::new().map_err(|error| broken(tool, error))?;
    let run = |args: &[&str]| {
        Launch::new(tool.name(), &apt)?
            .args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .start(log.path())?
            .wait()
    };
    progress(&format!("install the Debian package {package}"));
    let install = ["install", "--no-install-recommends", package];
    run(&install).or_else(|_| {
        progress("update the package lists");
        run(&["update"])?;
        run(&install)
    })
}

fn build(tool: Tool, progress: Progress<'_>) -> Result<(), Missing> {
    let io = |error: std::io::Error| broken(tool, error);
    let no_cache = || Missing::absent(tool.name(), "no cache folder: HOME is not set");
    let (cache, done) = (
        cache().ok_or_else(no_cache)?,
        tool.cache_folder().ok_or_else(no_cache)?,
    );
    std::fs::create_dir_all(&cache).map_err(io)?;
    let lock = File::create(done.with_added_extension("lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    if done.exists() {
        return Ok(());
    }
    let building = done.with_added_extension("building");
    if building.exists() {
        std::fs::remove_dir_all(&building).map_err(io)?;
    }
    std::fs::create_dir(&building).map_err(io)?;
    let log = done.with_added_extension("log");
    match tool.source() {
        Source::Npm {
            package, version, ..
        } => {
            progress(&format!("install {package} {version} from npm"));
            npm(tool, &format!("{package}@{version}"), &building, &log)?;
        }
        Source::Pip {
            package, version, ..
        } => {
            progress(&format!("install {package} {version} with pip"));
            pip(tool, &format!("{package}=={version}"), &building, &log)?;
        }
        Source::Go {
            package, version, ..
        } => {
            progress(&format!(
                "build {} {version} with Go, about a minute",
                tool.name()
            ));
            let module = format!("{package}@v{version}");
            go(tool)?
                .args(["install", &module])
                .env("GOBIN", &building)
                .start(&log)?
                .wait()?;
        }
        Source::Kubernetes => {
            progress("build Kubernetes with Go, about six minutes, 2 GB of memory");
            kubernetes(tool, &building, &done, &log)?;
        }
        Source::Referrers => {
            progress("build the registry with referrers with Go, about a minute");
            referrers(tool, &building, &log)?;
        }
        Source::Debian { .. } => {}
    }
    std::fs::rename(&building, &done).map_err(io)?;
    // The log of a success tells nothing.
    let _ = std::fs::remove_file(&log);
    Ok(())
}

fn npm(tool: Tool, package: &str, prefix: &Path, log: &Path) -> Result<(), Missing> {
    let npm = program("npm").ok_or_else(|| Missing::absent(tool.name(), "needs npm to install"))?;
    Launch::new(tool.name(), npm)?
        .args(["install".as_ref(), "--prefix".as_ref(), prefix.as_os_str()])
        .args([
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--no-update-notifier",
            package,
        ])
        .current_dir(prefix)
        .start(log)?
        .wait()
}

/// A folder of modules can be renamed when it is complete; a virtual environment can not.
fn pip(tool: Tool, requirement: &str, folder: &Path, log: &Path) -> Result<(), Missing> {
    let python = program("python3")
        .ok_or_else(|| Missing::absent(tool.name(), "needs python3 to install"))?;
    Launch::new(tool.name(), python)?
        .args(["-m", "pip", "install", "--quiet", "--no-input"])
        .args(["--disable-pip-version-check", requirement, "--target"])
        .args([folder])
        .start(log)?
        .wait()
}

/// Go without downloads of other toolchains: what is installed must do.
fn go(tool: Tool) -> Result<Launch, Missing> {
    let go = program("go").ok_or_else(|| Missing::absent(tool.name(), "needs Go to build"))?;
    Ok(Launch::new(tool.name(), go)?
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=mod"))
}

/// Writes a Go module into a folder of its own.
fn module(files: &[(&str, &str)]) -> std::io::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text)?;
    }
    Ok(folder)
}

fn referrers(tool: Tool, building: &Path, log: &Path) -> Result<(), Missing> {
    let module = module(&REFERRERS_MODULE).map_err(|error| broken(tool, error))?;
    go(tool)?
        .args(["build", "-trimpath", "-o"])
        .args([building.join(tool.name()).as_os_str(), ".".as_ref()])
        .env("GOFLAGS", "-mod=readonly")
        .env("CGO_ENABLED", "0")
        .current_dir(module.path())
        .start(log)?
        .wait()
}

/// One call builds all programs, for they share most of their packages.
fn kubernetes(tool: Tool, building: &Path, done: &Path, log: &Path) -> Result<(), Missing> {
    let io = |error: std::io::Error| broken(tool, error);
    // Kept when the build is killed, so that the next goes on from there.
    let build_cache = done.with_added_extension("gocache");
    let module = module(&KUBERNETES_MODULE).map_err(io)?;
    let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
    // Without these the server reports v0.0.0-master.
    let version = "-X k8s.io/component-base/version.git";
    let flags = format!(
        "-s -w {version}Version=v{KUBERNETES} {version}Major=1 {version}Minor={minor} \
         {version}TreeState=clean"
    );
    go(tool)?
        .args(["build", "-trimpath", "-p", "2", "-ldflags", &flags, "-o"])
        .args([building])
        .args(KUBERNETES_PROGRAMS.map(|name| format!("k8s.io/kubernetes/cmd/{name}")))
        .env("GOFLAGS", "-mod=readonly")
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", &build_cache)
        .current_dir(module.path())
        .start(log)?
        .wait()?;
    std::fs::remove_dir_all(&build_cache).map_err(io)
}

fn broken(tool: Tool, error: impl fmt::Display) -> Missing {
    Missing::broken(tool.name(), format!("install: {error}"))
}
