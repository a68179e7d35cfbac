//! Models that others uploaded, in folders of versions, in one folder, or as one object: what
//! every store must do about them.

use std::time::Duration;

use modelship_model_store::{
    ErrorKind, Format, ModelStore, ModelVersion, ResolveOptions, Selector, Trust,
};

use crate::backends::{azure_backend, directory_backend, memory_backend, s3_backend};
use crate::conformance::Backend;
use crate::fixtures::{dir, kind, publish, read, sha256};

async fn all(backend: &Backend) {
    folders(backend).await;
    by_time(backend).await;
    published_by_time(backend).await;
    markers(backend).await;
    checksums(backend).await;
    pointers_and_indexes(backend).await;
    mixed_schemes(backend).await;
    leftovers(backend).await;
    one_folder(backend).await;
    one_object(backend).await;
    torn_sets(backend).await;
    rechecks(backend).await;
    relocks(backend).await;
    polls(backend).await;
    errors_help(backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    all(&memory_backend()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory() {
    let dir = tempfile::tempdir().unwrap();
    all(&directory_backend(dir.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure() {
    if let Some((_azurite, backend)) = azure_backend().await {
        all(&backend).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3() {
    if let Some((_server, backend)) = s3_backend().await {
        all(&backend).await;
    }
}

/// A model with these files, whose store does not wait between two listings.
async fn uploaded(backend: &Backend, model: &str, files: &[(&str, &str)]) -> ModelStore {
    for (path, text) in files {
        backend.put(model, path, text.as_bytes().to_vec()).await;
    }
    let options = ResolveOptions::default().with_quiescence(Duration::ZERO);
    (backend.open)(model).with_resolve_options(options)
}

async fn resolve(store: &ModelStore, selector: &str) -> ModelVersion {
    let selector: Selector = selector.parse().unwrap();
    store.resolve(&selector).await.unwrap()
}

async fn refused(store: &ModelStore, selector: &str) -> (ErrorKind, String) {
    let selector: Selector = selector.parse().unwrap();
    let error = store.resolve(&selector).await.unwrap_err();
    let text = format!("{error}; {}", error.hint().unwrap_or_default());
    (error.kind(), text)
}

fn paths(model: &ModelVersion) -> Vec<&str> {
    model
        .files()
        .iter()
        .map(|file| file.path.as_str())
        .collect()
}

async fn folders(backend: &Backend) {
    let files = [
        ("1.9.0/w.bin", "nine"),
        ("1.10.0/w.bin", "ten"),
        ("1.10.0/sub/weird %2F n\u{e4}me+x=1.txt", "odd"),
        ("2.0.0-rc.1/w.bin", "soon"),
        ("README.md", "of all versions"),
    ];
    let store = uploaded(backend, "folders", &files).await;
    // A sibling whose name starts the same must not leak in.
    uploaded(backend, "folders-other", &[("9.9.9/w.bin", "x")]).await;
    assert_eq!(
        store.versions().await.unwrap(),
        ["1.9.0", "1.10.0", "2.0.0-rc.1"]
    );
    let model = resolve(&store, "latest").await;
    assert_eq!((model.version(), model.total_size()), ("1.10.0", 6));
    assert_eq!(paths(&model), ["sub/weird %2F n\u{e4}me+x=1.txt", "w.bin"]);
    assert_eq!(
        model.policy(),
        "latest: no pointer and no index, highest complete version that is not a pre-release; \
         complete: no marker, two listings 0ns apart are the same"
    );
    assert!(!model.is_sealed() && model.format() == Format::Plain);
    assert!(model.files().iter().all(|file| file.etag.is_some()));
    for (path, text) in [("w.bin", "ten"), ("sub/weird %2F n\u{e4}me+x=1.txt", "odd")] {
        assert_eq!(read(&store, &model, path).await.unwrap(), text.as_bytes());
    }
    let json = serde_json::to_string(&model).unwrap();
    assert_eq!(serde_json::from_str::<ModelVersion>(&json).unwrap(), model);
    for (selector, version) in [
        ("1.9.0", "1.9.0"),
        ("^1.0", "1.10.0"),
        ("~1.9", "1.9.0"),
        (">=1,<1.10", "1.9.0"),
        ("1.x", "1.10.0"),
        ("^2.0.0-rc.1", "2.0.0-rc.1"),
        ("2.0.0-rc.1", "2.0.0-rc.1"),
        (model.tree_digest(), "1.10.0"),
    ] {
        let found = resolve(&store, selector).await;
        assert_eq!(found.version(), version, "{selector}: {}", found.policy());
        assert_eq!(found.selector().to_string(), selector);
    }
    assert!(refused(&store, "^2").await.1.contains("a version in ^2"));
    names_and_retractions(backend, (&store, &model)).await;
}

async fn names_and_retractions(backend: &Backend, (store, model): (&ModelStore, &ModelVersion)) {
    // An exact name wins over the range it could be.
    backend.put("folders", "1.x/w.bin", b"x".to_vec()).await;
    assert_eq!(resolve(store, "1.x").await.version(), "1.x");
    // A retracted version is left out, whoever uploaded it.
    backend.delete("folders", "1.x/w.bin").await;
    backend
        .put("folders", "retracted/1.10.0.json", b"{}".to_vec())
        .await;
    assert_eq!(resolve(store, "latest").await.version(), "1.9.0");
    assert_eq!(refused(store, "1.10.0").await.0, ErrorKind::Retracted);
    assert_eq!(
        resolve(store, model.tree_digest()).await.version(),
        "1.10.0"
    );
}

/// By time, whatever the names say: what this crate published, by its manifest.
async fn published_by_time(backend: &Backend) {
    let store = (backend.open)("published-times");
    let source = dir(&[("a", b"1")]);
    for version in ["1.0.0", "2.0.0", "3.0.0-rc.1"] {
        publish(&store, source.path(), version).await.unwrap();
    }
    let manifest = "versions/1.0.0/manifest.json";
    let bytes = backend.get("published-times", manifest).await;
    let second = "versions/2.0.0/manifest.json";
    let before = backend.modified("published-times", second).await;
    later(backend, "published-times", (manifest, &bytes), &before).await;
    assert_eq!(resolve(&store, "newest").await.version(), "1.0.0");
    let moment = backend.modified("published-times", manifest).await;
    let found = resolve(&store, &format!("before:{moment}")).await;
    assert_eq!(found.version(), "2.0.0");
    assert!(
        found
            .policy()
            .contains("by the last change of its manifest")
    );
    assert_eq!(
        refused(&store, "before:2001-01-01").await.0,
        ErrorKind::NotFound
    );
}

/// Writes an object until the store says that it is newer than `before`: stores keep whole
/// seconds.
async fn later(backend: &Backend, model: &str, (path, bytes): (&str, &[u8]), before: &str) {
    for _ in 0..200 {
        backend.put(model, path, bytes.to_vec()).await;
        if backend.modified(model, path).await.as_str() > before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!("the store's clock stands still");
}

/// By time, whatever the names say: folders, by their newest file.
async fn by_time(backend: &Backend) {
    let store = uploaded(backend, "times", &[("2.0.0/w", "2"), ("3.0.0-rc.1/w", "3")]).await;
    let before = backend.modified("times", "2.0.0/w").await;
    later(backend, "times", ("1.0.0/w", b"1"), &before).await;
    assert_eq!(resolve(&store, "latest").await.version(), "2.0.0");
    let newest = resolve(&store, "newest").await;
    assert_eq!(newest.version(), "1.0.0");
    assert!(
        newest.policy().starts_with("newest: completed last"),
        "{}",
        newest.policy()
    );
    let later = resolve(&store, "before:2199-01-01").await;
    assert_eq!(later.version(), "1.0.0");
    let moment = backend.modified("times", "1.0.0/w").await;
    let moment = format!("before:{moment}");
    let before = resolve(&store, &moment).await;
    assert_eq!(before.version(), "2.0.0", "{}", before.policy());
    let (kind, text) = refused(&store, "before:2001-01-01").await;
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains("from before 2001-01-01T00:00:00Z"), "{text}");
}

async fn markers(backend: &Backend) {
    let files = [("1/w", "1"), ("1/_SUCCESS", ""), ("2/w", "2")];
    let store = uploaded(backend, "markers", &files).await;
    let model = resolve(&store, "latest").await;
    assert_eq!((model.version(), paths(&model)), ("1", vec!["w"]));
    assert!(model.policy().contains("complete: marked by _SUCCESS"));
    assert!(
        model
            .policy()
            .contains("left out: 2 (no marker, which other versions have)"),
        "{}",
        model.policy()
    );
    backend.put("markers", "2/_SUCCESS", Vec::new()).await;
    assert_eq!(resolve(&store, "latest").await.version(), "2");
    backend.put("markers", "3/_SUCCESS", Vec::new()).await;
    let model = resolve(&store, "latest").await;
    assert_eq!(model.version(), "2", "{}", model.policy());
    assert!(model.policy().contains("3 (it has no files)"));
}

async fn checksums(backend: &Backend) {
    let sums = format!("{}  w\n{}  sub/x\n", sha256("weights"), sha256("x"));
    let files = [
        ("1/w", "weights"),
        ("1/sub/x", "x"),
        ("1/SHA256SUMS", &sums),
    ];
    let store = uploaded(backend, "sums", &files).await;
    let model = resolve(&store, "1").await;
    assert_eq!(paths(&model), ["sub/x", "w"]);
    assert!(model.is_sealed() && model.policy().contains("every file that SHA256SUMS names"));
    let weights = model.file("w").unwrap();
    assert_eq!(weights.sha256, Some(sha256("weights")));
    assert_eq!(weights.trust, Some(Trust::Sidecar));
    assert_eq!(read(&store, &model, "w").await.unwrap(), b"weights");
    backend.put("sums", "1/w", b"WEIGHTS".to_vec()).await;
    let other = resolve(&store, "1").await;
    assert_eq!(other.tree_digest(), model.tree_digest());
    assert_eq!(
        kind(read(&store, &other, "w").await),
        ErrorKind::DigestMismatch
    );
    backend.delete("sums", "1/sub/x").await;
    let (kind, text) = refused(&store, "1").await;
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(
        text.contains("SHA256SUMS names \"sub/x\", which is not there"),
        "{text}"
    );
    assert!(text.contains("_SUCCESS"), "{text}");
    // A checksum for each file; the last one is still on its way.
    let line = format!("{}  w\n", sha256("weights"));
    let files = [
        ("2/w", "weights"),
        ("2/x", "x"),
        ("2/w.sha256", &line),
        ("2/x.sha256", &sha256("x")),
    ];
    let store = uploaded(backend, "sidecars", &files).await;
    let model = resolve(&store, "2").await;
    assert!(model.is_sealed() && model.policy().contains("every file has its .sha256"));
    backend.delete("sidecars", "2/x").await;
    let (_, text) = refused(&store, "2").await;
    assert!(
        text.contains("x.sha256 is there without its file"),
        "{text}"
    );
}

async fn pointers_and_indexes(backend: &Backend) {
    let files = [("1.0.0/w", "1"), ("1.1.0/w", "11"), ("champion/w", "c")];
    let store = uploaded(backend, "pointers", &files).await;
    assert_eq!(resolve(&store, "champion").await.version(), "champion");
    let index = format!(
        r#"{{"versions":[{{"version":"1.0.0","sha256":"{}"}},{{"version":"champion"}}],"latest":"1.0.0"}}"#,
        sha256("1")
    );
    backend
        .put("pointers", "versions.json", index.into_bytes())
        .await;
    let model = resolve(&store, "latest").await;
    assert_eq!(model.version(), "1.0.0");
    assert!(
        model
            .policy()
            .starts_with("latest: named by versions.json; complete")
    );
    assert_eq!(model.files()[0].trust, Some(Trust::Sidecar));
    assert_eq!(store.versions().await.unwrap(), ["champion", "1.0.0"]);
    backend
        .put("pointers", "LATEST", b"champion\n".to_vec())
        .await;
    let model = resolve(&store, "latest").await;
    assert_eq!(model.version(), "champion");
    assert!(
        model
            .policy()
            .starts_with("latest: named by LATEST; complete")
    );
    let json = br#"{"version":"1.1.0","by":"someone"}"#.to_vec();
    backend.put("pointers", "latest.json", json).await;
    let model = resolve(&store, "latest").await;
    assert_eq!(model.version(), "1.1.0");
    assert!(
        model
            .policy()
            .starts_with("latest: named by latest.json; complete")
    );
    backend
        .put("pointers", "latest.json", br#"{"version":"7"}"#.to_vec())
        .await;
    let (kind, text) = refused(&store, "latest").await;
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(
        text.contains("names version 7, which does not exist"),
        "{text}"
    );
    // An index that speaks of something else is an error, and not no index.
    backend.delete("pointers", "latest.json").await;
    backend.delete("pointers", "LATEST").await;
    backend
        .put("pointers", "versions.json", b"{}".to_vec())
        .await;
    assert_eq!(refused(&store, "latest").await.0, ErrorKind::Invalid);
}

/// A model of ours without versions is no folder of files.
async fn leftovers(backend: &Backend) {
    let removed = br#"{"schema_version":1,"removed":true,"sequence":3}"#.to_vec();
    backend.put("leftovers", "latest.json", removed).await;
    backend
        .put("leftovers", "history/latest/1.json", b"{}".to_vec())
        .await;
    let store = (backend.open)("leftovers");
    for selector in ["latest", "1.0.0", "^1", "newest"] {
        let (kind, text) = refused(&store, selector).await;
        assert_eq!(kind, ErrorKind::NotFound, "{text}");
        assert!(text.contains("no version"), "{text}");
    }
}

async fn mixed_schemes(backend: &Backend) {
    let files = [("1.0.0/w", "1"), ("2026-01-31/w", "2")];
    let store = uploaded(backend, "mixed", &files).await;
    let (kind, text) = refused(&store, "latest").await;
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("have no common order"), "{text}");
    // A range says which scheme is meant.
    assert_eq!(resolve(&store, "^1").await.version(), "1.0.0");
    let store = uploaded(
        backend,
        "dates",
        &[("2025-12-31/w", "1"), ("2026-01-02/w", "2")],
    )
    .await;
    assert_eq!(resolve(&store, "latest").await.version(), "2026-01-02");
}

async fn one_folder(backend: &Backend) {
    let files = [
        ("MLmodel", "flavors"),
        ("data/model.pkl", "p"),
        ("data/empty", ""),
    ];
    let store = uploaded(backend, "plain", &files).await;
    let model = resolve(&store, "latest").await;
    let digest = model.tree_digest().trim_start_matches("sha256:");
    assert_eq!(model.version(), format!("tree-{}", &digest[..12]));
    assert_eq!(paths(&model), ["MLmodel", "data/empty", "data/model.pkl"]);
    assert_eq!(model.format(), Format::Mlflow);
    assert!(
        model
            .policy()
            .starts_with("latest: one folder without versions")
    );
    assert_eq!(read(&store, &model, "data/model.pkl").await.unwrap(), b"p");
    assert_eq!(read(&store, &model, "data/empty").await.unwrap(), b"");
    for selector in [
        model.version(),
        model.tree_digest(),
        "newest",
        "before:2199-01-01",
    ] {
        let same = resolve(&store, selector).await;
        assert_eq!(same.tree_digest(), model.tree_digest(), "{selector}");
    }
    assert_eq!(
        refused(&store, "before:2001-01-01").await.0,
        ErrorKind::NotFound
    );
    assert_eq!(refused(&store, "^1").await.0, ErrorKind::Invalid);
    backend.put("plain", "data/model.pkl", b"q".to_vec()).await;
    let other = resolve(&store, "latest").await;
    assert_ne!(other.version(), model.version());
    assert_eq!(
        refused(&store, model.version()).await.0,
        ErrorKind::NotFound
    );
}

async fn one_object(backend: &Backend) {
    // The name says that it is a file, or only the store does.
    for name in ["digits.pkl", "weights"] {
        let store = uploaded(backend, name, &[("", "pickled")]).await;
        let model = resolve(&store, "latest").await;
        assert!(model.version().starts_with("tree-") && paths(&model) == [name]);
        assert!(model.policy().contains("one object"), "{}", model.policy());
        assert_eq!(read(&store, &model, name).await.unwrap(), b"pickled");
        assert_eq!(
            resolve(&store, model.version()).await.version(),
            model.version()
        );
        let json = serde_json::to_string(&model).unwrap();
        assert_eq!(serde_json::from_str::<ModelVersion>(&json).unwrap(), model);
        store.recheck(&model).await.unwrap();
        let sum = format!("{}  {name}\n", sha256("pickled"));
        backend
            .put(&format!("{name}.sha256"), "", sum.into_bytes())
            .await;
        let sealed = resolve(&store, "latest").await;
        assert!(sealed.is_sealed());
        let digest = format!("sha256:{}", sha256("pickled"));
        assert_eq!(resolve(&store, &digest).await.version(), sealed.version());
        backend.put(name, "", b"changed".to_vec()).await;
        assert_eq!(kind(store.recheck(&model).await), ErrorKind::Changed);
        let (_, text) = refused(&store, "1.2.0").await;
        assert!(text.contains("one object, without versions"), "{text}");
        // Without versions there is none to ask for.
        let (kind, _) = refused(&store, "object:3L4kqtJlcpXroDTDmJ").await;
        assert_ne!(kind, ErrorKind::Io, "{name}");
    }
}

async fn torn_sets(backend: &Backend) {
    let index = r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    let files = [
        ("1/m.safetensors.index.json", index),
        ("1/m-1.safetensors", "1"),
        ("1/m-2.safetensors", "2"),
        ("2/m.safetensors.index.json", index),
        ("2/m-1.safetensors", "1"),
        ("3/saved_model.pb", "pb"),
        ("3/variables/variables.index", "i"),
        ("3/variables/variables.data-00000-of-00002", "0"),
        ("4/m-00001-of-00003.gguf", "1"),
        ("4/m-00003-of-00003.gguf", "3"),
        ("4/_SUCCESS", ""),
    ];
    let store = uploaded(backend, "torn", &files).await;
    for (version, missing) in [
        ("2", "\"m-2.safetensors\", which is not there"),
        (
            "3",
            "shard \"variables/variables.data-00001-of-00002\" is missing",
        ),
        ("4", "shard \"m-00002-of-00003.gguf\" is missing"),
    ] {
        let (kind, text) = refused(&store, version).await;
        assert_eq!(kind, ErrorKind::NotFound);
        assert!(
            text.contains("not complete") && text.contains(missing),
            "{text}"
        );
    }
    assert_eq!(resolve(&store, "1").await.format(), Format::Safetensors);
    backend.delete("torn", "4/_SUCCESS").await;
    let model = resolve(&store, "latest").await;
    assert_eq!(model.version(), "1");
    assert!(
        model.policy().contains("left out: 4 (the shard"),
        "{}",
        model.policy()
    );
    backend
        .put("torn", "4/m-00002-of-00003.gguf", b"2".to_vec())
        .await;
    let model = resolve(&store, "latest").await;
    assert_eq!((model.version(), model.format()), ("4", Format::Gguf));
}

async fn rechecks(backend: &Backend) {
    let store = uploaded(backend, "recheck", &[("1/a", "1"), ("1/b", "2")]).await;
    let model = resolve(&store, "1").await;
    store.recheck(&model).await.unwrap();
    // A marker that comes late changes nothing about the files.
    backend.put("recheck", "1/_SUCCESS", Vec::new()).await;
    store.recheck(&model).await.unwrap();
    backend.put("recheck", "1/c", b"3".to_vec()).await;
    let error = store.recheck(&model).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed);
    assert!(error.to_string().contains("\"c\" was added"), "{error}");
    backend.delete("recheck", "1/c").await;
    backend.put("recheck", "1/b", b"22".to_vec()).await;
    let error = store.recheck(&model).await.unwrap_err();
    assert!(error.to_string().contains("\"b\" was replaced"), "{error}");
    backend.delete("recheck", "1/a").await;
    let error = store.recheck(&model).await.unwrap_err();
    assert!(error.to_string().contains("\"a\" was removed"), "{error}");
}

/// A rebuild from a lock has the same bytes, or an error.
async fn relocks(backend: &Backend) {
    let sum = format!("{}  w\n", sha256("weights"));
    let files = [
        ("1/w", "weights"),
        ("2/w", "weights"),
        ("2/SHA256SUMS", &sum),
    ];
    let store = uploaded(backend, "relock", &files).await;
    let (open, sealed) = (resolve(&store, "1").await, resolve(&store, "2").await);
    assert_eq!(store.relock(&open).await.unwrap(), open);
    assert_eq!(store.relock(&sealed).await.unwrap(), sealed);
    for version in ["1", "2"] {
        // Written again, the same bytes have another tag.
        let path = format!("{version}/w");
        backend.delete("relock", &path).await;
        backend.put("relock", &path, b"other".to_vec()).await;
        backend.put("relock", &path, b"weights".to_vec()).await;
    }
    let again = store.relock(&sealed).await.unwrap();
    assert_eq!(again.tree_digest(), sealed.tree_digest());
    assert_eq!(read(&store, &again, "w").await.unwrap(), b"weights");
    if resolve(&store, "1").await.files()[0].etag != open.files()[0].etag {
        assert_eq!(kind(store.relock(&open).await), ErrorKind::Changed);
        assert_eq!(kind(read(&store, &open, "w").await), ErrorKind::Changed);
    }
    backend.put("relock", "2/w", b"WEIGHTS".to_vec()).await;
    let forged = store.relock(&sealed).await.unwrap();
    assert_eq!(
        kind(read(&store, &forged, "w").await),
        ErrorKind::DigestMismatch
    );
    backend
        .put("relock", "2/w", b"longer than before".to_vec())
        .await;
    assert_eq!(kind(store.relock(&sealed).await), ErrorKind::Changed);
    let elsewhere = (backend.open)("elsewhere");
    assert_eq!(kind(elsewhere.relock(&sealed).await), ErrorKind::Invalid);
}

/// A listing of a real store says the same until something changes.
async fn polls(backend: &Backend) {
    let files = [("1/w", "1"), ("1/sub/x", "x")];
    let store = uploaded(backend, "foreign-polls", &files).await;
    for (selector, path) in [("latest", "2/w"), ("^1", "1.1/w"), ("1", "1/y")] {
        let (selector, mut seen) = (selector.parse().unwrap(), None);
        let first = store.poll(&selector, &mut seen).await.unwrap();
        assert_eq!(first.unwrap().version(), "1", "{selector}");
        for _ in 0..3 {
            assert_eq!(store.poll(&selector, &mut seen).await.unwrap(), None);
        }
        backend.put("foreign-polls", path, b"new".to_vec()).await;
        let found = store.poll(&selector, &mut seen).await.unwrap().unwrap();
        assert!(path.starts_with(&format!("{}/", found.version())), "{path}");
        assert_eq!(store.poll(&selector, &mut seen).await.unwrap(), None);
        if !path.starts_with("1/") {
            backend.delete("foreign-polls", path).await;
        }
    }
}

async fn errors_help(backend: &Backend) {
    let store = uploaded(backend, "helpful", &[("1.4.2/w", "1"), ("1.5.0/w", "2")]).await;
    let (kind, text) = refused(&store, "1.4.3").await;
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains("found versions 1.4.2, 1.5.0"), "{text}");
    assert!(text.contains("did you mean 1.4.2?"), "{text}");
    let (_, text) = refused(&(backend.open)("helpfull"), "latest").await;
    assert!(text.contains("did you mean helpful?"), "{text}");
    let store = uploaded(backend, "parent", &[("vision/1/w", "1"), ("text/1/w", "2")]).await;
    let (kind, text) = refused(&store, "latest").await;
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains("only the folders text, vision"), "{text}");
    let limits = ResolveOptions::default().with_max_files(1);
    let store = uploaded(backend, "large", &[("1/a", "1"), ("1/b", "2")]).await;
    let (kind, text) = refused(&store.with_resolve_options(limits), "1").await;
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("more than 1 objects"), "{text}");
    let limits = ResolveOptions::default().with_max_bytes(1);
    let (_, text) = refused(&store.with_resolve_options(limits), "1").await;
    assert!(text.contains("or 1 bytes"), "{text}");
}
