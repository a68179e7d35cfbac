//! The mounts of a sandbox: root, system directories, binds.
//!
//! Runs after the fork, so it only makes system calls and fills buffers made before it. All of it
//! happens in a mount namespace of its own and vanishes with that.
//!
//! Layers and bind sources are opened before anything is mounted, and every target is resolved
//! after `pivot_root`, so that no symlink in an image can lead to the host.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::prepared::{Bind, Prepared};
use crate::report::{Note, Rung};
use crate::sys;
use crate::wire::{At, Failure, Stage};

/// The device files a program may expect.
const DEVICES: [(&CStr, &CStr); 6] = [
    (c"/dev/null", c"null"),
    (c"/dev/zero", c"zero"),
    (c"/dev/full", c"full"),
    (c"/dev/random", c"random"),
    (c"/dev/urandom", c"urandom"),
    (c"/dev/tty", c"tty"),
];
/// The links a program may expect in `/dev`.
const LINKS: [(&CStr, &CStr); 4] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
];
/// Parts of `/proc` through which user 0 changes the host even without a capability.
const HOST_CONTROLS: [&CStr; 6] = [
    c"/proc/sys",
    c"/proc/sysrq-trigger",
    c"/proc/irq",
    c"/proc/bus",
    c"/proc/fs",
    c"/proc/acpi",
];
const HOSTS: &[u8] = b"127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n";
const DIR: Mode = Mode::from_bits_retain(0o755);
const STICKY: Mode = Mode::from_bits_retain(0o1777);

/// Keeps mounts of this namespace from reaching the host's.
pub(crate) fn isolate() -> rustix::io::Result<()> {
    let flags = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change(c"/", flags)
}

/// Builds the root and makes it this process's; answers the notes.
pub(crate) fn build(prepared: &mut Prepared) -> Result<u32, Failure> {
    open_sources(prepared)?;
    let devices = DEVICES.map(|(source, _)| clone_tree(CWD, source).ok());
    let stage = stage(prepared).at(Stage::Scratch)?;
    let mut notes = root(prepared, stage.as_fd())?;
    pivot().at(Stage::Pivot)?;

    let overlay = notes & Note::NoOverlay.bit() == 0 && prepared.overlay;
    notes |= system_directories(stage.as_fd(), &devices);
    if notes & Note::NoProc.bit() == 0 {
        protect_host_controls().at(Stage::Mounts)?;
    }
    for (index, (bind, tree)) in prepared.binds.iter().zip(&prepared.bind_fds).enumerate() {
        attach_bind(bind, tree.as_fd()).at_index(Stage::Bind, index)?;
    }
    if overlay {
        finish_root(prepared)?;
    }
    // "." is the new root with the old one mounted over it (pivot_root(2), NOTES). /proc could
    // only be mounted while the old one was still in sight.
    rustix::mount::unmount(c".", UnmountFlags::DETACH).at(Stage::Pivot)?;
    rustix::process::chdir(c"/").at(Stage::Pivot)?;
    prepared.layer_fds.clear();
    prepared.bind_fds.clear();
    Ok(notes)
}

fn open_sources(prepared: &mut Prepared) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for (index, layer) in prepared.layers.iter().enumerate() {
        let fd = rustix::fs::open(layer.as_c_str(), flags, Mode::empty());
        prepared
            .layer_fds
            .push(fd.at_index(Stage::OpenLayer, index)?);
    }
    for (index, bind) in prepared.binds.iter().enumerate() {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(CWD, bind.source.as_c_str(), flags);
        let tree = tree.at_index(Stage::OpenBind, index)?;
        let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        sys::add_mount_attributes(tree.as_fd(), attributes, true)
            .at_index(Stage::OpenBind, index)?;
        prepared.bind_fds.push(tree);
    }
    Ok(())
}

/// A detached copy of the mount at `path`, to be attached somewhere else.
fn clone_tree(dir: impl AsFd, path: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(dir, path, flags)
}

/// Mounts the file system in memory that holds everything the process may write.
///
/// The bottom layer's directory serves as the mount point: it surely exists, is already open, and
/// is covered in this namespace only. So no directory of the host is needed.
fn stage(prepared: &Prepared) -> rustix::io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), c"size", prepared.written.as_c_str())?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), c"mode", c"0755")?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let stage = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let bottom = prepared.layer_fds.first().ok_or(Errno::NOENT)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(stage.as_fd(), c"", bottom.as_fd(), c"", flags)?;
    let directories = [
        (c"root", DIR),
        (c"upper", DIR),
        (c"work", DIR),
        (c"tmp", STICKY),
        (c"shm", STICKY),
        (c"run", DIR),
        (c"dev", DIR),
    ];
    for (name, mode) in directories {
        rustix::fs::mkdirat(&stage, name, mode)?;
    }
    Ok(stage)
}

/// Mounts the root at the stage's `root` and enters it.
fn root(prepared: &mut Prepared, stage: BorrowedFd<'_>) -> Result<u32, Failure> {
    let mut notes = 0;
    let single = prepared.layers.len() == 1;
    let mounted = if prepared.overlay {
        overlay(prepared, stage)
    } else {
        bind_root(prepared, stage)
    };
    match mounted {
        Ok(()) => {}
        Err(_) if prepared.overlay && single => {
            bind_root(prepared, stage).at(Stage::Overlay)?;
            notes |= Note::NoOverlay.bit();
        }
        Err(errno) => return Err(errno).at(Stage::Overlay),
    }
    rustix::process::fchdir(stage).at(Stage::Pivot)?;
    rustix::process::chdir(c"root").at(Stage::Pivot)?;
    Ok(notes)
}

fn overlay(prepared: &mut Prepared, stage: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let scratch = match &prepared.scratch {
        Some(dir) => Some(rustix::fs::open(dir.as_c_str(), flags, Mode::empty())?),
        None => None,
    };
    let upper = scratch.as_ref().map_or(stage, AsFd::as_fd);
    // Names relative to the open descriptors: short, and free of the characters that overlayfs
    // gives a meaning in its options.
    rustix::process::chdir(c"/proc/self/fd")?;
    let options = &mut prepared.options;
    options.clear();
    push(options, b"lowerdir=")?;
    for (index, layer) in prepared.layer_fds.iter().rev().enumerate() {
        push(options, if index == 0 { b"" } else { b":" })?;
        push_number(options, layer.as_raw_fd())?;
    }
    push(options, b",upperdir=")?;
    push_number(options, upper.as_raw_fd())?;
    push(options, b"/upper,workdir=")?;
    push_number(options, upper.as_raw_fd())?;
    push(options, b"/work")?;
    if prepared.rung == Rung::UserNamespaces {
        // `trusted.*` attributes are out of reach in a user namespace.
        push(options, b",userxattr")?;
    }
    push(options, b"\0")?;
    let options = CStr::from_bytes_with_nul(options).map_err(|_| Errno::INVAL)?;
    rustix::process::fchdir(stage)?;
    let root = rustix::fs::open(c"root", flags, Mode::empty())?;
    rustix::process::chdir(c"/proc/self/fd")?;
    let mut target = [0_u8; 12];
    let target = number(&mut target, root.as_raw_fd())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(c"overlay", target, c"overlay", flags, options)
}

/// Appends within the capacity made before the fork; growing would allocate.
fn push(options: &mut Vec<u8>, bytes: &[u8]) -> rustix::io::Result<()> {
    if options.capacity() - options.len() < bytes.len() {
        return Err(Errno::NAMETOOLONG);
    }
    options.extend_from_slice(bytes);
    Ok(())
}

fn push_number(options: &mut Vec<u8>, fd: i32) -> rustix::io::Result<()> {
    let mut buffer = [0_u8; 12];
    push(options, number(&mut buffer, fd)?.to_bytes())
}

/// Writes a descriptor's number as a C string.
fn number(buffer: &mut [u8; 12], fd: i32) -> rustix::io::Result<&CStr> {
    let mut rest = fd;
    let mut start = buffer.len() - 1;
    buffer[start] = 0;
    loop {
        start -= 1;
        buffer[start] = b'0' + u8::try_from(rest % 10).map_err(|_| Errno::BADF)?;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    CStr::from_bytes_with_nul(&buffer[start..]).map_err(|_| Errno::BADF)
}

/// Shows the only layer itself as the root, read-only.
fn bind_root(prepared: &Prepared, stage: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let bottom = prepared.layer_fds.first().ok_or(Errno::NOENT)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(bottom, c"", flags)?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    sys::add_mount_attributes(tree.as_fd(), attributes, false)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), c"", stage, c"root", flags)
}

/// Makes the working directory the root.
fn pivot() -> rustix::io::Result<()> {
    rustix::process::pivot_root(c".", c".")
}

/// Mounts what every program expects; answers notes for what this host or image refused.
fn system_directories(stage: BorrowedFd<'_>, devices: &[Option<OwnedFd>]) -> u32 {
    let mut notes = 0;
    let mut note = |result: rustix::io::Result<()>, note: Note| {
        if result.is_err() {
            notes |= note.bit();
        }
    };
    note(proc(), Note::NoProc);
    note(dev(stage, devices), Note::NoDev);
    note(attach_part(stage, c"tmp", c"/tmp"), Note::NoTmp);
    note(attach_part(stage, c"run", c"/run"), Note::NoRun);
    notes
}

fn proc() -> rustix::io::Result<()> {
    make_directory(c"/proc")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Hides what the program may not trace (proc(5)): init, whose command line is the caller's.
    rustix::mount::mount(c"proc", c"/proc", c"proc", flags, c"hidepid=4")
}

/// Makes what controls the host read-only: the process may be root there, under another number.
fn protect_host_controls() -> rustix::io::Result<()> {
    for path in HOST_CONTROLS {
        let part = match clone_tree(CWD, path) {
            Ok(part) => part,
            // Not every kernel has every one.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        sys::add_mount_attributes(part.as_fd(), libc::MOUNT_ATTR_RDONLY, false)?;
        attach(part.as_fd(), path)?;
    }
    Ok(())
}

fn dev(stage: BorrowedFd<'_>, devices: &[Option<OwnedFd>]) -> rustix::io::Result<()> {
    attach_part(stage, c"dev", c"/dev")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dev = rustix::fs::open(c"/dev", flags, Mode::empty())?;
    for ((_, name), device) in DEVICES.iter().zip(devices) {
        let Some(device) = device else { continue };
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(rustix::fs::openat(
            &dev,
            *name,
            flags,
            Mode::from_raw_mode(0o666),
        )?);
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(device.as_fd(), c"", dev.as_fd(), *name, flags)?;
    }
    for (target, name) in LINKS {
        rustix::fs::symlinkat(target, &dev, name)?;
    }
    rustix::fs::mkdirat(&dev, c"shm", DIR)?;
    attach_part(stage, c"shm", c"/dev/shm")
}

/// Shows a directory of the stage at `target`, so that one bound holds for all of them.
fn attach_part(stage: BorrowedFd<'_>, part: &CStr, target: &CStr) -> rustix::io::Result<()> {
    make_directory(target)?;
    attach(clone_tree(stage, part)?.as_fd(), target)
}

fn attach(tree: BorrowedFd<'_>, target: &CStr) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    rustix::mount::move_mount(tree, c"", CWD, target, flags)
}

/// Makes a directory unless there is something already; a read-only root may hold it.
fn make_directory(path: &CStr) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(CWD, path, DIR) {
        Ok(()) | Err(Errno::EXIST | Errno::ROFS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn attach_bind(bind: &Bind, tree: BorrowedFd<'_>) -> rustix::io::Result<()> {
    for parent in &bind.parents {
        make_directory(parent)?;
    }
    if bind.directory {
        make_directory(&bind.target)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::open(bind.target.as_c_str(), flags, Mode::from_raw_mode(0o644)) {
            Ok(_) | Err(Errno::EXIST | Errno::ROFS) => {}
            Err(errno) => return Err(errno),
        }
    }
    attach(tree, &bind.target)
}

/// The last changes to a writable root: working directory, `/etc/hosts`, and then read-only.
fn finish_root(prepared: &Prepared) -> Result<(), Failure> {
    for dir in &prepared.workdir_path {
        make_directory(dir).at(Stage::Workdir)?;
    }
    // Runtimes inject it, so images come without; best effort, as many programs do not need it.
    let _ = hosts();
    if prepared.read_only {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(c"/", flags, Mode::empty()).at(Stage::ReadOnly)?;
        sys::add_mount_attributes(root.as_fd(), libc::MOUNT_ATTR_RDONLY, false)
            .at(Stage::ReadOnly)?;
    }
    Ok(())
}

fn hosts() -> rustix::io::Result<()> {
    make_directory(c"/etc")?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/etc/hosts", flags, Mode::from_raw_mode(0o644))?;
    rustix::io::write(&file, HOSTS).map(drop)
}
