//! What a person may get wrong before any service is asked: configuration, model, packages,
//! kubeconfig.

use std::fs;

use modelship_testkit::need;

use crate::site::{Site, apt_sources, snapshot};

#[test]
fn an_unknown_key_is_named_with_file_and_line() {
    let site = Site::new(&[("tests = []", "tsets = []")]);
    site.modelship("run")
        .refused("configure", &["modelship.toml:5", "`tsets`", "`tests`"])
        .next("modelship init");
    site.released_nothing();
    assert!(!site.path("state").exists());
}

#[test]
fn a_missing_model_version_says_which_exist() {
    let site = Site::new(&[("@latest", "@9.9.9")]);
    site.publish("1.0.0");
    site.publish("1.1.0");
    let before = snapshot(&site.path("store"));
    site.modelship("run")
        .refused("observe", &["digits@9.9.9", "1.0.0", "1.1.0"])
        .next("modelship publish");
    assert_eq!(snapshot(&site.path("store")), before);
    site.released_nothing();
}

#[test]
fn a_missing_model_says_which_exist() {
    let site = Site::new(&[("store/digits", "store/digtis")]);
    for name in ["digits", "letters"] {
        let arguments = format!("publish app/models/digits/1.0.0 {name} 1.0.0");
        site.modelship(&arguments).succeeded();
    }
    fs::create_dir(site.path("store/no-model")).unwrap();
    site.modelship("run")
        .refused("observe", &["store/digtis", "found models digits, letters"])
        .next("name one of them");
    site.released_nothing();
}

#[test]
fn an_empty_store_says_how_to_publish() {
    let site = Site::new(&[]);
    site.modelship("run")
        .refused(
            "observe",
            &["store/digits", "no version has been published"],
        )
        .next("modelship publish DIR digits VERSION");
    site.released_nothing();
    assert!(snapshot(&site.path("store")).is_empty());
}

#[test]
fn a_missing_kubeconfig_is_named() {
    let site = Site::new(&[("manifests = \"manifests\"", "kubeconfig = \"none.yaml\"")]);
    site.modelship("run")
        .refused("configure", &["none.yaml", "no such file"])
        .next("kubeconfig");
    site.released_nothing();
}

#[test]
fn a_damaged_kubeconfig_is_named_and_its_token_is_not_told() {
    let site = Site::new(&[("manifests = \"manifests\"", "kubeconfig = \"kube.yaml\"")]);
    let token = "tok3n-that-nobody-may-see";
    let one_line = format!("users: [{{name: a, user: {{token: {token}}}}}\n");
    let wrong_type = format!("apiVersion: v1\nkind: Config\nusers: {token}\n");
    for text in [one_line, wrong_type, format!("{token}\n")] {
        fs::write(site.path("kube.yaml"), text).unwrap();
        site.modelship("run")
            .refused("configure", &["kube.yaml", "not a kubeconfig"])
            .next("fetch it again")
            .keeps(&[token]);
    }
    site.released_nothing();
}

#[test]
fn a_machine_without_package_sources_says_where_to_put_one() {
    let site = Site::new(&[("lock = \"base.lock\"", "apt = \"apt\"")]);
    fs::create_dir(site.path("apt")).unwrap();
    site.publish("1.0.0");
    site.modelship("run")
        .refused("observe", &["package sources", "no enabled package source"])
        .next(".sources");
    site.released_nothing();
}

#[test]
fn a_base_without_python_is_named_by_its_packages() {
    let Some(()) = need(apt_sources()) else {
        return;
    };
    let packages = "packages = [\"base-files\"]\ntest_packages = []";
    let site = Site::new(&[("lock = \"base.lock\"", packages)]);
    site.publish("1.0.0");
    site.modelship("run")
        .refused("base", &["base-files", "no python3"])
        .next("add `python3`");
    site.released_nothing();
}
