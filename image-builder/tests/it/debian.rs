//! The `debian` module against a loopback archive: trust, caching, determinism, hostile packages.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use modelship_image_builder::debian::{
    DebianBase, DebianLock, DebianTree, SignedBy, Source, Sources,
};
use modelship_image_builder::{ErrorKind, NodeKind, Result, Tree};
use sha2::{Digest, Sha256};

use crate::debian_repository::{Item, Repository, ar, deb, foreign_key};

/// Everything that makes up a tree, as text.
async fn describe(tree: &Tree) -> String {
    let mut text = String::new();
    for (path, node) in tree.iter() {
        let what = match &node.kind {
            NodeKind::File(content) => {
                let hasher = content
                    .open(0)
                    .try_fold(Sha256::new(), async |hasher, chunk| {
                        Ok(hasher.chain_update(chunk))
                    })
                    .await
                    .unwrap();
                format!("{} {}", content.len(), hex::encode(hasher.finalize()))
            }
            other => format!("{other:?}"),
        };
        let (mode, uid, gid) = (node.mode, node.uid, node.gid);
        writeln!(text, "{path} {mode:o} {uid} {gid} {what}").unwrap();
    }
    text
}

/// An archive with an app, its library and a test tool, in all three compressions.
async fn repository() -> Repository {
    let mut repository = Repository::start().await;
    let app = [
        Item::Dir("./usr/"),
        Item::Dir("./usr/bin/"),
        Item::File("./usr/bin/app", 0o4755, "run"),
        Item::Hard("./usr/bin/app2", "./usr/bin/app"),
        Item::Link("./usr/bin/python3", "python3.11"),
        Item::File("./usr/bin/python3.11", 0o755, "python"),
        Item::File("./usr/share/doc/app/changelog.gz", 0o644, "x"),
        Item::File("./usr/share/doc/app/copyright", 0o644, "mine"),
        Item::Device("./dev/null"),
    ];
    repository.add(
        "app",
        "Depends: lib (>= 1), debconf\n",
        deb("app", "", &app, "xz"),
    );
    let lib = [
        Item::Dir("./lib/"),
        Item::File("./lib/x/blas/libblas.so.3", 0o644, "blas"),
        Item::File("./usr/share/ca-certificates/a/A.crt", 0o644, "CERT"),
    ];
    repository.add("lib", "", deb("lib", "", &lib, "zst"));
    let tool = [Item::File("./usr/lib/tool.py", 0o644, "test")];
    repository.add(
        "tool",
        "Depends: lib, python3\nProvides: python3\n",
        deb("tool", "", &tool, "gz"),
    );
    repository.publish("Acquire-By-Hash: yes\n");
    repository
}

fn base(cache: &Path) -> DebianBase {
    DebianBase::new(["app"], "amd64", cache)
}

async fn lock(repository: &Repository, signed_by: SignedBy) -> Result<DebianLock> {
    let cache = tempfile::tempdir().unwrap();
    base(cache.path())
        .lock(&repository.sources(signed_by), &|_| {})
        .await
}

#[tokio::test]
async fn a_signed_archive_becomes_a_complete_tree() {
    let repository = repository().await;
    let cache = tempfile::tempdir().unwrap();
    let (base, sources) = (base(cache.path()), repository.sources(repository.key()));
    let lock = base.lock(&sources, &|_| {}).await.unwrap();
    let names: Vec<_> = lock
        .packages()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    assert_eq!(names, ["app", "lib"]);
    assert!(
        !lock.to_json().contains("127.0.0.1"),
        "a lock names no host"
    );

    let made = base.assemble(&lock, &sources, &|_| {}).await.unwrap();
    let text = describe(made.tree()).await;
    let has = |start: &str| text.lines().any(|line| line.starts_with(start));
    for line in [
        "usr/bin/app 755 0 0 3 ",
        "usr/bin/app2 644 0 0 3 ",
        "usr/lib/x/blas/libblas.so.3 644 0 0 4 ",
        "usr/lib/x/libblas.so.3 777 0 0 Symlink(\"blas/libblas.so.3\")",
        "lib 777 0 0 Symlink(\"usr/lib\")",
        "etc/ssl/certs/ca-certificates.crt 644 0 0 5 ",
        "home/nonroot 700 65532 65532 ",
        "tmp 1777 ",
        "usr/share/doc/app/copyright ",
        "var/lib/dpkg/status.d/app ",
    ] {
        assert!(has(line), "{line} is missing in\n{text}");
    }
    assert!(
        !has("dev/null") && !has("usr/share/doc/app/changelog"),
        "{text}"
    );
    assert_eq!(made.python(), None, "no package tells the version");
}

#[tokio::test]
async fn an_unchanged_archive_is_not_fetched_again() {
    let repository = repository().await;
    let cache = tempfile::tempdir().unwrap();
    let (base, sources) = (base(cache.path()), repository.sources(repository.key()));
    let first = base.lock(&sources, &|_| {}).await.unwrap();
    let tree = base.assemble(&first, &sources, &|_| {}).await.unwrap();
    assert_eq!(repository.take_requests().len(), 4);

    let second = base.lock(&sources, &|_| {}).await.unwrap();
    assert_eq!(first.to_json(), second.to_json());
    assert_eq!(repository.take_requests(), ["/dists/test/InRelease"]);

    // From the lock and the cache alone, with a source nothing listens at.
    let dead =
        Sources::new().with_source(Source::new("http://127.0.0.1:1/", "test", ["main"]).unwrap());
    let reread = DebianLock::from_json(&first.to_json()).unwrap();
    let again = base.assemble(&reread, &dead, &|_| {}).await.unwrap();
    assert_eq!(describe(tree.tree()).await, describe(again.tree()).await);
    assert!(repository.take_requests().is_empty());
}

#[tokio::test]
async fn another_cache_gives_the_same_tree_and_a_damaged_one_heals() {
    let repository = repository().await;
    let sources = repository.sources(repository.key());
    let assembled = async |cache: &Path| -> DebianTree {
        let base = base(cache);
        let lock = base.lock(&sources, &|_| {}).await.unwrap();
        base.assemble(&lock, &sources, &|_| {}).await.unwrap()
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = describe(assembled(one.path()).await.tree()).await;
    assert_eq!(first, describe(assembled(two.path()).await.tree()).await);

    for directory in ["packages", "index"] {
        for file in std::fs::read_dir(one.path().join(directory)).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    assert_eq!(first, describe(assembled(one.path()).await.tree()).await);
}

#[tokio::test]
async fn a_layer_adds_only_what_the_base_lacks() {
    let repository = repository().await;
    let cache = tempfile::tempdir().unwrap();
    let (base, sources) = (base(cache.path()), repository.sources(repository.key()));
    let below = base.lock(&sources, &|_| {}).await.unwrap();
    let above = base
        .lock_layered(&below, ["tool"], &sources, &|_| {})
        .await
        .unwrap();
    assert_eq!(above.on().unwrap(), below.digest().to_string());
    let tree = base
        .assemble(&above, &sources, &|_| {})
        .await
        .unwrap()
        .into_tree();
    let files: Vec<_> = tree
        .iter()
        .filter(|(_, node)| !node.is_dir())
        .map(|(path, _)| path)
        .collect();
    assert_eq!(files, ["usr/lib/tool.py", "var/lib/dpkg/status.d/tool"]);
}

#[tokio::test]
async fn releases_that_are_not_to_be_trusted_are_refused() {
    let repository = repository().await;
    let error = lock(&repository, foreign_key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unverified);
    assert_eq!(
        error.to_string(),
        "verify release `test`: no trusted key signed it"
    );
    let none = lock(&repository, SignedBy::Keyrings(Vec::new()))
        .await
        .unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Unverified);
    let absent = lock(
        &repository,
        SignedBy::Keyrings(vec!["/nonexistent.gpg".into()]),
    )
    .await;
    assert_eq!(absent.unwrap_err().kind(), ErrorKind::NotFound);

    repository.alter("InRelease", |bytes| {
        let at = bytes.windows(4).position(|word| word == b"main").unwrap();
        bytes[at] = b'n';
    });
    let error = lock(&repository, repository.key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unverified);
    assert!(error.to_string().contains("does not match"), "{error}");

    repository.put(
        "dists/test/InRelease",
        b"Codename: test\nSHA256:\n".to_vec(),
    );
    let error = lock(&repository, repository.key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unverified);
}

#[tokio::test]
async fn unsigned_text_around_the_signed_text_is_not_read() {
    let repository = repository().await;
    repository.alter("InRelease", |bytes| {
        let mut forged = b"Codename: test\nSHA256:\n".to_vec();
        forged.append(bytes);
        *bytes = forged;
    });
    // Either it is refused, or only the signed part counts.
    match lock(&repository, repository.key()).await {
        Ok(lock) => assert_eq!(lock.packages().len(), 2),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unverified),
    }
}

#[tokio::test]
async fn another_suite_and_an_old_release_are_refused() {
    let repository = repository().await;
    let copy = repository.files.lock().unwrap().clone();
    for (path, bytes) in copy {
        repository.put(
            path.trim_start_matches('/')
                .replace("dists/test", "dists/other")
                .as_str(),
            bytes,
        );
    }
    let cache = tempfile::tempdir().unwrap();
    let other = repository.source("other").with_signed_by(repository.key());
    let error = base(cache.path())
        .lock(&Sources::new().with_source(other), &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unverified);

    repository.publish("Valid-Until: Sat, 10 May 2025 10:01:53 UTC\n");
    let now = SystemTime::now() + Duration::from_mins(1);
    let sources = repository.sources(repository.key()).with_time(now);
    let error = base(cache.path())
        .lock(&sources, &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unverified);
    let snapshot = repository
        .source("test")
        .with_signed_by(repository.key())
        .with_time_checked(false);
    let sources = Sources::new().with_source(snapshot).with_time(now);
    base(cache.path()).lock(&sources, &|_| {}).await.unwrap();
}

#[tokio::test]
async fn a_trusted_source_needs_no_signature() {
    let repository = repository().await;
    lock(&repository, SignedBy::Nobody).await.unwrap();
}

#[tokio::test]
async fn indexes_and_packages_with_other_bytes_are_refused() {
    let repository = repository().await;
    let cache = tempfile::tempdir().unwrap();
    let (base, sources) = (base(cache.path()), repository.sources(repository.key()));
    let lock = base.lock(&sources, &|_| {}).await.unwrap();
    let flip = |bytes: &mut Vec<u8>| bytes[70] ^= 1;
    repository.alter("lib_1.0-1_all.deb", flip);
    let error = base.assemble(&lock, &sources, &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    assert!(error.to_string().contains("lib_1.0-1_all.deb"), "{error}");
    repository.alter("lib_1.0-1_all.deb", |bytes| bytes.push(0));
    let error = base.assemble(&lock, &sources, &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);

    let index: String = repository
        .take_requests()
        .into_iter()
        .find(|path| path.contains("/by-hash/"))
        .unwrap();
    repository.alter(&index, flip);
    let error = self::lock(&repository, repository.key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

/// What assembling one package made for the purpose gives.
async fn outcome(file: Vec<u8>) -> Result<DebianTree> {
    let mut repository = Repository::start().await;
    repository.add("app", "", file);
    repository.publish("");
    let cache = tempfile::tempdir().unwrap();
    let (base, sources) = (base(cache.path()), repository.sources(repository.key()));
    let lock = base.lock(&sources, &|_| {}).await?;
    base.assemble(&lock, &sources, &|_| {}).await
}

#[tokio::test]
async fn hostile_packages_are_refused() {
    let packed = |item: Item<'_>| deb("app", "", &[item], "gz");
    for (case, file) in [
        (
            "parent",
            packed(Item::File("./usr/../../etc/x", 0o644, "x")),
        ),
        (
            "whiteout",
            packed(Item::File("./etc/.wh.passwd", 0o644, "x")),
        ),
        ("empty link", packed(Item::Link("./etc/x", ""))),
        (
            "link out",
            packed(Item::Hard("./etc/x", "../../etc/shadow")),
        ),
        (
            "file as parent",
            deb(
                "app",
                "",
                &[Item::File("./a", 0o644, ""), Item::File("./a/b", 0o644, "")],
                "gz",
            ),
        ),
        ("no data", ar(&[("debian-binary", b"2.0\n")])),
        ("not ar", b"PK\x03\x04 and so on".to_vec()),
        ("cut", {
            let mut file = packed(Item::File("./a", 0o644, "x"));
            file.truncate(file.len() - 20);
            file
        }),
    ] {
        let error = outcome(file)
            .await
            .err()
            .unwrap_or_else(|| panic!("{case} was accepted"));
        let expected = [
            ErrorKind::Invalid,
            ErrorKind::Conflict,
            ErrorKind::Unsupported,
        ];
        assert!(expected.contains(&error.kind()), "{case}: {error:?}");
    }
}

#[tokio::test]
async fn links_that_point_out_move_no_file_out() {
    let items = [
        Item::Link("./opt/out", "../../../../outside"),
        Item::File("./opt/out/file", 0o644, "x"),
    ];
    let tree = outcome(deb("app", "", &items, "gz"))
        .await
        .unwrap()
        .into_tree();
    assert!(tree.get("outside/file").is_some());
}

#[tokio::test]
async fn a_missing_archive_says_where_to_look() {
    let cache = tempfile::tempdir().unwrap();
    let error = base(cache.path())
        .lock(&Sources::new(), &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap().contains("sources"));
}
