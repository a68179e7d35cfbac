//! An app or a model that must not be released, found out on the way.

use std::fs;

use crate::site::{Site, shared_base};

#[test]
fn an_app_that_never_becomes_ready_is_not_pushed() {
    let Some(base) = shared_base() else { return };
    let site = Site::new(&[
        ("tests = []", "tests = []\nreadiness = \"/nothing-here\""),
        ("[registry]", "[smoke]\ntimeout = \"8s\"\n[registry]"),
    ]);
    site.adopt(base);
    site.publish("1.0.0");
    let said = site.modelship("run");
    said.refused(
        "smoke",
        &["sha256:", "not ready after 8 s", "/nothing-here"],
    )
    .next("answer 200 on /nothing-here; nothing was pushed");
    // The end of the app's own log: how it began has scrolled away by then on a quick machine.
    assert!(
        said.err().contains("\"GET /nothing-here HTTP/1.1\" 404"),
        "the app's log is shown"
    );
    site.released_nothing();
}

#[test]
fn an_app_whose_tests_fail_is_not_built() {
    let Some(base) = shared_base() else { return };
    let site = Site::new(&[("tests = []\n", "")]);
    site.adopt(base);
    site.publish("1.0.0");
    let broken = "\n\ndef test_that_fails():\n    assert 1 == 2, 'one is not two'\n";
    let suite = site.path("app/tests/test_app.py");
    let text = fs::read_to_string(&suite).unwrap() + broken;
    fs::write(&suite, text).unwrap();
    let said = site.modelship("run");
    said.refused("test", &["digits"])
        .next("mend the app or its tests");
    assert!(
        said.err().contains("one is not two"),
        "the suite's log is shown"
    );
    site.released_nothing();
}

/// The weights change between the manifest and the read, keeping their size.
#[test]
fn a_model_file_that_was_replaced_is_not_shipped() {
    let Some(base) = shared_base() else { return };
    let site = Site::new(&[]);
    site.adopt(base);
    site.publish("1.0.0");
    let weights = site.path("store/digits/versions/1.0.0/files/weights.npz");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let said = site.modelship("run");
    said.refused("fetch", &["weights.npz"]);
    site.released_nothing();
    let models = fs::read_dir(site.path("state/cache/models"));
    assert_eq!(models.map_or(0, Iterator::count), 0, "kept for later runs");
    let mut folders = vec![site.path("state/cache/files")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert!(fs::read(&path).unwrap() != bytes, "{}", path.display());
            }
        }
    }
}
