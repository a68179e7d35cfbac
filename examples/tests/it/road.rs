//! The whole road with the `modelship` program, from `init` to a rollback, all on this machine.

use std::fs;

use crate::program::said;
use crate::site::{Site, shared_base, snapshot};

#[test]
fn from_init_to_rollback_every_answer_is_json() {
    let Some(base) = shared_base() else { return };
    let site = Site::new(&[]);
    site.adopt_at("app/.modelship", "app/modelship.lock", base);
    let at = |arguments: &str| {
        let mut command = site.command(arguments);
        command.current_dir(site.path("app"));
        said(&mut command)
    };

    let wrote = at("init --json").json();
    assert_eq!(
        wrote["wrote"],
        site.path("app/modelship.toml").to_str().unwrap()
    );
    let own = fs::read(site.path("app/modelship.toml")).unwrap();
    at("init").refused("configure", &["modelship.toml", "exists already"]);
    assert_eq!(fs::read(site.path("app/modelship.toml")).unwrap(), own);

    let published = at("publish models/digits/1.0.0 app 1.0.0 --json").json();
    assert_eq!(published["published"]["version"], "1.0.0", "{published}");

    let plan = at("plan --json").json();
    assert_eq!(plan["plan"]["action"], "build", "{plan}");
    assert!(plan["steps"].as_array().unwrap().len() >= 5, "{plan}");
    assert!(!site.path("app/out").exists(), "a plan writes nothing");

    let first = at("run --json").json();
    assert_eq!(first["run"], "released");
    holds_no_road(&site, &first);
    let first_image = first["release"]["image"].clone();
    let manifests = site.path("app/out/manifests/app.yaml");
    let first_manifests = fs::read(&manifests).unwrap();
    assert_eq!(at("run --json").json()["run"], "unchanged");
    assert_eq!(at("plan --json").json()["steps"], serde_json::json!([]));

    at("publish models/digits/1.1.0 app 1.1.0").succeeded();
    let second = at("run --json").json();
    assert_eq!(second["run"], "released");
    assert_ne!(second["release"]["image"], first_image);
    assert_eq!(moved(&second, "base"), 0, "the base is there already");
    assert_eq!(moved(&second, "code"), 0, "the code is there already");
    assert!(moved(&second, "model") > 0, "the model is new");
    let status = at("status --json").json();
    assert!(digest_is(&second, &status), "{status}");

    let blobs = snapshot(&site.path("app/out/image"));
    let back = at("rollback --json").json();
    assert!(
        back["rollback"].as_str().unwrap().contains("1.0.0"),
        "{back}"
    );
    assert_eq!(fs::read(&manifests).unwrap(), first_manifests);
    assert!(snapshot(&site.path("app/out/image")) == blobs);
    let status = at("status --json").json();
    assert!(digest_is(&first, &status), "{status}");

    at("rollback --json").refused("rollback", &["no earlier release"]);
}

/// The app's folder holds configuration, store, lock, caches and images by now; none but the
/// configuration is in the image.
#[track_caller]
fn holds_no_road(site: &Site, run: &serde_json::Value) {
    let layers = run["release"]["layers"].as_array().unwrap();
    let code = layers.iter().find(|layer| layer["role"] == "code").unwrap();
    let digest = code["digest"].as_str().unwrap().replace(':', "/");
    let blob = fs::read(site.path("app/out/image/blobs").join(digest)).unwrap();
    let holds = |name: &str| blob.windows(name.len()).any(|w| w == name.as_bytes());
    assert!(holds("app/gunicorn.conf.py"));
    for name in [
        "app/store",
        "app/.modelship",
        "app/out",
        "app/modelship.lock",
    ] {
        assert!(!holds(name), "{name} is in the image");
    }
}

/// Whether what runs by `status` is the image of `run`.
fn digest_is(run: &serde_json::Value, status: &serde_json::Value) -> bool {
    let image = run["release"]["image"].as_str().unwrap();
    image.ends_with(status["image"].as_str().unwrap())
}

/// The bytes that a run moved for the layers of `role`.
fn moved(run: &serde_json::Value, role: &str) -> u64 {
    let layers = run["release"]["layers"].as_array().unwrap();
    let of_role = layers.iter().filter(|layer| layer["role"] == role);
    of_role.map(|layer| layer["moved"].as_u64().unwrap()).sum()
}

#[test]
fn an_error_is_json_too_when_json_is_asked_for() {
    let site = Site::new(&[]);
    let said = site.modelship("run --json");
    said.refused("observe", &["no version has been published"]);
    let error = said.error_json();
    assert_eq!(error["error"]["stage"], "observe");
    assert!(error["error"]["next"].as_str().unwrap().contains("publish"));
    assert_eq!(error["error"]["retryable"], false);
}
