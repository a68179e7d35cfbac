//! `modelship model …` as a process of its own, over a store in a folder.

use std::fs;

use serde_json::Value;

use crate::program::Said;
use crate::site::Site;

/// A site with versions 1.0.0, 1.1.0 and 1.2.0 of the model in its configuration.
fn stocked() -> Site {
    let site = Site::new(&[]);
    for (minor, accuracy) in [(0, "0.90"), (1, "0.95"), (2, "0.97")] {
        let folder = site.path("model");
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("weights"), [minor; 9]).unwrap();
        fs::write(folder.join("sub/labels"), "0123456789").unwrap();
        let published = site.modelship(&format!(
            "publish model digits 1.{minor}.0 --metadata accuracy={accuracy}"
        ));
        published.succeeded();
    }
    site
}

fn words<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    let items = value.as_array().unwrap().iter();
    items
        .map(|item| item[key].as_str().unwrap_or("-"))
        .collect()
}

fn model(site: &Site, arguments: &str) -> Said {
    site.modelship(&format!("model {arguments}"))
}

#[test]
fn versions_are_listed_shown_and_compared() {
    let site = stocked();
    let list = model(&site, "list --json").json();
    assert_eq!(
        words(&list["versions"], "version"),
        ["1.0.0", "1.1.0", "1.2.0"]
    );
    assert_eq!(
        list["versions"][2]["named_by"],
        serde_json::json!(["latest"])
    );
    let text = model(&site, "list");
    assert!(
        text.succeeded()
            .contains("1.2.0            complete         19 B  latest"),
        "{text:?}"
    );
    let shown = model(&site, "show latest --json").json();
    assert_eq!(shown["version"]["metadata"]["accuracy"], "0.97");
    assert_eq!(
        words(&shown["version"]["contents"], "path"),
        ["sub/labels", "weights"]
    );
    let diff = model(&site, "diff 1.0.0 latest");
    let diff = diff.succeeded();
    assert!(
        diff.starts_with("1.0.0 -> 1.2.0: 0 added, 0 removed, 1 changed, 1 same, 9 B to move"),
        "{diff}"
    );
    assert!(diff.contains("accuracy: 0.90 -> 0.97"), "{diff}");
    model(&site, "show 7").refused("observe", &["found 1.0.0, 1.1.0, 1.2.0"]);
    // Another store than the configuration's.
    let url = format!("file://{}/other", site.path("elsewhere").display());
    assert_eq!(
        model(&site, &format!("list {url}")).succeeded().trim_end(),
        "no versions"
    );
}

#[test]
fn names_move_back_and_forth_and_leave_a_history() {
    let site = stocked();
    model(&site, "promote prod 1.0.0 --reason first").succeeded();
    model(&site, "promote prod latest").succeeded();
    let back = model(&site, "rollback prod --reason slow --json").json();
    assert_eq!(
        (&back["moved"]["version"], &back["moved"]["restores"]),
        (&"1.0.0".into(), &1.into())
    );
    let history = model(&site, "history prod --json").json();
    assert_eq!(
        words(&history["history"], "version"),
        ["1.0.0", "1.2.0", "1.0.0"]
    );
    assert_eq!(history["history"][0]["note"]["reason"], "slow");
    assert!(
        history["history"][0]["note"]["at"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let text = model(&site, "history prod --limit 1");
    assert!(
        text.succeeded().contains("1.0.0             back to 1"),
        "{text:?}"
    );
    model(&site, "rollback prod").refused("rollback", &["no earlier version"]);
    let dry = model(&site, "delete-alias prod");
    assert!(dry.succeeded().contains("add --yes"), "{dry:?}");
    model(&site, "delete-alias prod --yes").succeeded();
    model(&site, "delete-alias prod --yes").refused("publish", &["no such alias"]);
}

#[test]
fn a_retracted_version_is_refused_and_fetched_by_its_digest() {
    let site = stocked();
    model(&site, "promote prod 1.2.0").succeeded();
    let resolved = model(&site, "resolve --json").json();
    let digest = resolved["resolved"]["tree_digest"].as_str().unwrap();
    let dry = model(&site, "retract 1.2.0");
    assert!(
        dry.succeeded().contains("alias:prod stands in the way"),
        "{dry:?}"
    );
    model(&site, "retract 1.2.0 --yes").refused("publish", &["aliases prod", "nothing was done"]);
    let done = model(&site, "retract 1.2.0 --move-aliases --reason leak --yes");
    assert!(
        done.succeeded().contains("latest names 1.1.0 now"),
        "{done:?}"
    );
    assert_eq!(
        model(&site, "resolve --json").json()["resolved"]["version"],
        "1.1.0"
    );
    let url = format!("file://{}", site.path("store/digits").display());
    model(&site, &format!("resolve {url}@1.2.0")).refused("fetch", &["retracted", "leak"]);
    model(&site, &format!("fetch out {url}@{digest}")).succeeded();
    assert_eq!(fs::read(site.path("out/weights")).unwrap(), [2; 9]);
}

#[test]
fn a_lock_fetches_the_same_bytes_again_and_damage_is_seen() {
    let site = stocked();
    let first = model(&site, "fetch out --lock model.lock --json").json();
    assert_eq!(first["fetched"]["version"], "1.2.0");
    model(&site, "promote latest 1.0.0").succeeded();
    fs::remove_dir_all(site.path("out")).unwrap();
    let again = model(&site, "fetch out --lock model.lock --json").json();
    assert_eq!(again["fetched"], first["fetched"]);
    assert!(
        !site.path("out/.modelship-fetch").exists(),
        "nothing is left beside the files"
    );
    assert_eq!(
        fs::read(site.path("out/sub/labels")).unwrap(),
        b"0123456789"
    );
    fs::write(
        site.path("store/digits/versions/1.1.0/files/weights"),
        [9; 9],
    )
    .unwrap();
    let url = format!("file://{}@1.1.0", site.path("store/digits").display());
    let damaged = model(&site, &format!("fetch damaged {url}"));
    damaged.refused("fetch", &["weights", "sha256"]);
    assert!(!site.path("damaged/weights").exists());
    fs::write(site.path("model.lock"), "{}").unwrap();
    model(&site, "fetch out --lock model.lock").refused("fetch", &["model.lock", "not the lock"]);
}

#[test]
fn garbage_is_planned_and_what_is_held_stays() {
    let site = stocked();
    model(&site, "hold cluster-a 1.0.0 --reason deployed").succeeded();
    model(&site, "resolve --lock locked").succeeded();
    let gc = "gc --grace 0 --keep-last 0 --lock locked --json";
    let plan = model(&site, gc).json();
    assert_eq!(
        words(&plan["would_collect"]["remove"], "version"),
        ["1.1.0"]
    );
    assert_eq!(
        words(&plan["would_collect"]["keep"], "version"),
        ["1.0.0", "1.2.0"]
    );
    assert_eq!(
        model(&site, "list --json").json()["versions"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let done = model(&site, &format!("{gc} --yes")).json();
    assert_eq!(
        done["collected"]["removed"],
        plan["would_collect"]["remove"]
    );
    assert!(!site.path("store/digits/versions/1.1.0").exists());
    model(&site, "release cluster-a").succeeded();
    model(&site, "release cluster-a").refused("publish", &["nothing is held"]);
    let text = model(&site, "gc --grace 0 --keep-last 1");
    assert!(
        text.succeeded().starts_with("would remove 1 versions, "),
        "{text:?}"
    );
}
