//! Writes what maintainer scripts would have written, without running any.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use crate::content::Content;
use crate::error::{Error, ErrorKind, Result};
use crate::tree::{Node, NodeKind, Tree};

const STAGE: &str = "assemble debian base";
/// The user an image runs as unless told otherwise, by the number distroless images use.
pub(super) const NONROOT: u64 = 65_532;

const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\n\
    nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n\
    nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nstaff:x:50:\nnogroup:x:65534:\nnonroot:x:65532:\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n\
    networks: files\nprotocols: files\nservices: files\n";
const CA_SOURCES: &str = "usr/share/ca-certificates/";
const CA_BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
const CA_LIMIT: u64 = 1 << 20;
/// Libraries several packages offer, of which `update-alternatives` picks one: the folder the
/// package puts it into, and its name.
const ALTERNATIVES: [(&str, &str); 2] = [("blas", "libblas.so.3"), ("lapack", "liblapack.so.3")];

/// Completes the tree of a base.
pub(super) fn base(tree: &mut Tree) -> Result<()> {
    merged_usr(tree)?;
    accounts(tree)?;
    certificates(tree)?;
    absent(tree, "etc/nsswitch.conf", || Content::bytes(NSSWITCH))?;
    for directory in ["dev", "proc", "sys", "run", "etc"] {
        if tree.get(directory).is_none() {
            tree.insert_dir(directory, 0o755)?;
        }
    }
    tree.insert_dir("tmp", 0o1777)?;
    tree.insert_dir("var/tmp", 0o1777)
}

/// Links the alternatives that are present; for any tree.
pub(super) fn alternatives(tree: &mut Tree) -> Result<()> {
    let mut links = Vec::new();
    for (folder, library) in ALTERNATIVES {
        let suffix = format!("/{folder}/{library}");
        for (path, _) in tree.iter() {
            if let Some(parent) = path.strip_suffix(&suffix) {
                links.push((format!("{parent}/{library}"), format!("{folder}/{library}")));
            }
        }
    }
    for (path, target) in links {
        if tree.get(&path).is_none() {
            tree.insert_symlink(&path, &target)?;
        }
    }
    Ok(())
}

/// Records a package the way images without dpkg do, for scanners to find.
pub(super) fn status(tree: &mut Tree, package: &str, control: &str) -> Result<()> {
    let path = format!("var/lib/dpkg/status.d/{package}");
    tree.insert_bytes(&path, 0o644, control.trim_end().to_owned() + "\n")
}

fn merged_usr(tree: &mut Tree) -> Result<()> {
    for name in ["bin", "sbin", "lib"] {
        let target = format!("usr/{name}");
        if tree.get(&target).is_none() {
            tree.insert_dir(&target, 0o755)?;
        }
        tree.insert_symlink(name, &target)?;
    }
    // Only where the architecture has it.
    for name in ["lib64", "lib32", "libx32"] {
        let target = format!("usr/{name}");
        if tree.get(&target).is_some() {
            tree.insert_symlink(name, &target)?;
        }
    }
    Ok(())
}

fn accounts(tree: &mut Tree) -> Result<()> {
    absent(tree, "etc/passwd", || Content::bytes(PASSWD))?;
    absent(tree, "etc/group", || Content::bytes(GROUP))?;
    tree.insert_dir("root", 0o700)?;
    tree.insert(
        "home/nonroot",
        Node::dir(0o700).with_owner(NONROOT, NONROOT),
    )
}

/// Joins the certificates of `ca-certificates` into the bundle programs read, and puts it where
/// OpenSSL looks by itself.
fn certificates(tree: &mut Tree) -> Result<()> {
    let mut bundle = String::new();
    for (path, node) in tree.iter() {
        let NodeKind::File(content) = &node.kind else {
            continue;
        };
        if path.starts_with(CA_SOURCES)
            && path.rsplit_once('.').is_some_and(|(_, kind)| kind == "crt")
        {
            let text = read_small(content, path)?;
            // Writing to a string cannot fail.
            let _ = writeln!(bundle, "{}", text.trim_end());
        }
    }
    if bundle.is_empty() {
        return Ok(());
    }
    absent(tree, CA_BUNDLE, || Content::bytes(bundle))?;
    for (path, target) in [
        ("usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"),
        ("usr/lib/ssl/certs", "/etc/ssl/certs"),
    ] {
        if tree.get(path).is_none() {
            tree.insert_symlink(path, target)?;
        }
    }
    Ok(())
}

fn absent(tree: &mut Tree, path: &str, content: impl FnOnce() -> Result<Content>) -> Result<()> {
    if tree.get(path).is_some() {
        return Ok(());
    }
    tree.insert_file(path, 0o644, content()?)
}

fn read_small(content: &Content, name: &str) -> Result<String> {
    if let Some(bytes) = content.as_bytes() {
        return Ok(String::from_utf8_lossy(bytes).into_owned());
    }
    let Some((path, offset)) = content.as_path().filter(|_| content.len() <= CA_LIMIT) else {
        let detail = "the certificate is too large to be one";
        return Err(Error::new(ErrorKind::Invalid, STAGE, name, detail));
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|mut file| file.seek(SeekFrom::Start(offset)).map(|_| file))
        .and_then(|file| file.take(content.len()).read_to_string(&mut text))
        .map_err(|error| Error::io(STAGE, path, "cannot read a certificate", error))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tree: &Tree, path: &str) -> String {
        match &tree.get(path).unwrap().kind {
            NodeKind::File(content) => read_small(content, path).unwrap(),
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn a_base_has_accounts_links_and_a_bundle() {
        let mut tree = Tree::new();
        tree.insert_bytes("usr/share/ca-certificates/x/b.crt", 0o644, "B\n\n")
            .unwrap();
        tree.insert_bytes("usr/share/ca-certificates/x/a.crt", 0o644, "A")
            .unwrap();
        tree.insert_bytes("etc/group", 0o644, "mine\n").unwrap();
        base(&mut tree).unwrap();
        assert_eq!(text(&tree, CA_BUNDLE), "A\nB\n");
        assert_eq!(text(&tree, "etc/group"), "mine\n");
        assert!(text(&tree, "etc/passwd").contains("nonroot:x:65532:65532:"));
        assert_eq!(tree.get("home/nonroot").unwrap().uid, 65_532);
        assert_eq!(tree.get("tmp").unwrap().mode, 0o1777);
        assert!(matches!(&tree.get("lib").unwrap().kind, NodeKind::Symlink(to) if to == "usr/lib"));
        assert!(tree.get("lib64").is_none());
    }

    #[test]
    fn alternatives_are_linked_beside_their_folder() {
        let mut tree = Tree::new();
        tree.insert_bytes("usr/lib/x86_64-linux-gnu/blas/libblas.so.3", 0o644, "x")
            .unwrap();
        tree.insert_bytes("usr/lib/a/lapack/liblapack.so.3", 0o644, "x")
            .unwrap();
        tree.insert_bytes("usr/lib/a/liblapack.so.3", 0o644, "own")
            .unwrap();
        alternatives(&mut tree).unwrap();
        let link = &tree
            .get("usr/lib/x86_64-linux-gnu/libblas.so.3")
            .unwrap()
            .kind;
        assert!(matches!(link, NodeKind::Symlink(to) if to == "blas/libblas.so.3"));
        assert_eq!(text(&tree, "usr/lib/a/liblapack.so.3"), "own");
    }
}
