//! Our archives as other programs list them: GNU tar, libarchive, Python, and Go in crane.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use modelship_image_builder::{Layer, NodeKind, Tree, layout};
use modelship_testkit::judge::Output;
use modelship_testkit::{DockerRegistry, Judge, Missing, Scratch, Tool, need, tool};

use crate::sample;

/// Runs a program of the operating system.
pub(crate) async fn run(program: &str, args: &[&str]) -> Result<Output, Missing> {
    let command = tokio::process::Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = command.await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Missing::absent(program, error),
        _ => Missing::broken(program, error),
    })?;
    Ok(Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// An entry as a reader lists it: type letter and mode as `ls` shows them, size, link target.
type Listed = BTreeMap<String, (String, u64, String)>;

/// Names around each limit of the format, all kinds of entries, sizes around a block.
fn tree() -> Tree {
    let mut tree = sample::tree();
    for len in [99, 100, 101, 154, 155, 156, 255] {
        let name = format!("long/{}", "n".repeat(len));
        tree.insert_bytes(&name, 0o644, "x").unwrap();
    }
    let deep = format!("{0}/{0}/{0}", "deep-directory".repeat(7));
    tree.insert_bytes(&format!("{deep}/file"), 0o644, "x")
        .unwrap();
    tree.insert_hardlink("long/hard", &format!("{deep}/file"))
        .unwrap();
    tree.insert_symlink("long/soft", &format!("../{deep}/file"))
        .unwrap();
    tree.insert_symlink("long/äöü", "ß/字").unwrap();
    for size in [0, 1, 511, 512, 513, 1024, 10_240] {
        tree.insert_bytes(&format!("sizes/{size}"), 0o600, vec![b'x'; size])
            .unwrap();
    }
    for mode in [0o755, 0o4755, 0o2755, 0o1644] {
        tree.insert_bytes(&format!("modes/{mode:o}"), mode, "x")
            .unwrap();
    }
    tree
}

fn permissions(mode: u32) -> String {
    let letter = |at: u32, set: char| if mode & (0o400 >> at) == 0 { '-' } else { set };
    let mut text: Vec<char> = (0..9)
        .map(|at| letter(at, ['r', 'w', 'x'][at as usize % 3]))
        .collect();
    for (bit, at, small) in [(0o4000, 2, 's'), (0o2000, 5, 's'), (0o1000, 8, 't')] {
        if mode & bit != 0 {
            text[at] = if text[at] == 'x' {
                small
            } else {
                small.to_ascii_uppercase()
            };
        }
    }
    text.into_iter().collect()
}

/// What each reader must list.
fn expected(tree: &Tree) -> Listed {
    let entry = |kind: char, mode: u32, size: u64, link: &str| {
        (
            format!("{kind}{}", permissions(mode)),
            size,
            link.to_owned(),
        )
    };
    let listed = tree.iter().map(|(path, node)| {
        let entry = match &node.kind {
            NodeKind::Dir => entry('d', node.mode, 0, ""),
            NodeKind::File(content) => entry('-', node.mode, content.len(), ""),
            NodeKind::Symlink(target) => entry('l', node.mode, 0, target),
            NodeKind::Hardlink(target) => entry('h', tree.get(target).unwrap().mode, 0, target),
            _ => unreachable!("no other kind is in the tree"),
        };
        (path.to_owned(), entry)
    });
    listed.collect()
}

/// Reads lines as `tar -tv` prints them: permissions first, the size in column `size`, the name
/// after `columns` columns.
fn listing(text: &str, (size, columns): (usize, usize)) -> Listed {
    let parse = |line: &str| {
        let mut rest = line;
        let mut fields = vec![];
        for _ in 0..columns {
            let (field, after) = rest.trim_start().split_once(' ').unwrap();
            fields.push(field);
            rest = after;
        }
        let rest = rest.trim_start();
        let (name, link) = rest
            .split_once(" -> ")
            .or_else(|| rest.split_once(" link to "))
            .unwrap_or((rest, ""));
        let name = name.trim_end_matches('/').to_owned();
        (
            name,
            (
                fields[0].to_owned(),
                fields[size].parse().unwrap(),
                link.to_owned(),
            ),
        )
    };
    text.lines().map(parse).collect()
}

/// The archive plain and compressed, by file name.
async fn archives(dir: &Path, tree: &Tree) -> Vec<String> {
    let plain = sample::bytes(Layer::tree(tree.clone()).unwrap().open(0)).await;
    let gzip = Layer::tree(tree.clone())
        .unwrap()
        .gzip(&dir.join("spool"))
        .await
        .unwrap();
    let zstd =
        ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    let files = [
        ("layer.tar", plain),
        ("layer.tar.gz", sample::bytes(gzip.open(0)).await),
        ("layer.tar.zst", zstd),
    ];
    let write = |(name, bytes): (&str, Vec<u8>)| {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    files.into_iter().map(write).collect()
}

#[tokio::test]
async fn gnu_tar_lists_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let files = archives(dir.path(), &tree()).await;
    // Without the program `zstd`, GNU tar cannot read that one.
    for file in &files[..2] {
        let args = [
            "--list",
            "--verbose",
            "--quoting-style=literal",
            "--numeric-owner",
            "--file",
            file,
        ];
        let Some(listed) = need(run("tar", &args).await) else {
            return;
        };
        assert_eq!(listed.stderr, "");
        assert_eq!(
            listing(listed.succeeded(), (2, 5)),
            expected(&tree()),
            "{file}"
        );
    }
}

#[tokio::test]
async fn libarchive_lists_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(bsdtar) = need(tool::path(Tool::Bsdtar)) else {
        return;
    };
    for file in archives(dir.path(), &tree()).await {
        let Some(listed) = need(run(bsdtar.to_str().unwrap(), &["-tvf", &file]).await) else {
            return;
        };
        assert_eq!(listed.stderr, "", "{file}");
        assert_eq!(
            listing(listed.succeeded(), (4, 8)),
            expected(&tree()),
            "{file}"
        );
    }
}

#[tokio::test]
async fn python_lists_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let script = "import stat, sys, tarfile\n\
        kinds = {b'0': '-', b'5': 'd', b'2': 'l', b'1': 'h'}\n\
        for m in tarfile.open(sys.argv[1]):\n \
        size = m.size if m.isreg() else 0\n \
        link = ' -> ' + m.linkname if m.linkname else ''\n \
        print(kinds[m.type] + stat.filemode(m.mode)[1:], size, m.name + link)";
    for file in &archives(dir.path(), &tree()).await[..2] {
        let Some(listed) = need(run("python3", &["-c", script, file]).await) else {
            return;
        };
        assert_eq!(
            listing(listed.succeeded(), (1, 2)),
            expected(&tree()),
            "{file}"
        );
    }
}

/// `crane export` reads the layers with Go's reader and writes what a container would see.
#[tokio::test]
async fn go_lists_what_is_in_it() {
    let dir = Scratch::new().unwrap();
    let layer = Layer::tree(tree()).unwrap();
    let layout_dir = dir.path().join("oci");
    layout::write(&layout_dir, &sample::image(vec![layer]), "1.0", &|_| ())
        .await
        .unwrap();
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let Some(judge) = need(Judge::of(&registry)) else {
        return;
    };
    let target = format!("{}/app:1.0", registry.host());
    let from = format!("oci:{}:1.0", layout_dir.display());
    let to = format!("docker://{target}");
    let args = [
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        &from,
        &to,
    ];
    let Some(copied) = need(judge.ask(Tool::Skopeo, &args).await) else {
        return;
    };
    copied.succeeded();
    let exported = dir.path().join("exported.tar");
    let args = ["export", "--insecure", &target, exported.to_str().unwrap()];
    let Some(said) = need(judge.ask(Tool::Crane, &args).await) else {
        return;
    };
    said.succeeded();
    let args = [
        "--list",
        "--verbose",
        "--quoting-style=literal",
        "--numeric-owner",
        "--file",
    ];
    let args = [&args[..], &[exported.to_str().unwrap()]].concat();
    let Some(listed) = need(run("tar", &args).await) else {
        return;
    };
    assert_eq!(listing(listed.succeeded(), (2, 5)), expected(&tree()));
}
