//! The CI templates: structure that the services demand, and command lines that the program takes.

use std::path::Path;

use serde_json::Value;

use crate::program::{MODELSHIP, program, said, words};

fn template(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ci").join(name);
    serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The elements of a list.
fn list<'a>(value: &'a Value, what: &str) -> &'a Vec<Value> {
    value
        .as_array()
        .filter(|l| !l.is_empty())
        .unwrap_or_else(|| panic!("{what}: {value}"))
}

/// The one key of `step` that says what kind of step it is.
fn kind<'a>(step: &Value, kinds: &[&'a str]) -> &'a str {
    let found: Vec<_> = kinds.iter().filter(|k| !step[**k].is_null()).collect();
    assert_eq!(found.len(), 1, "a step is one of {kinds:?}: {step}");
    found[0]
}

fn only_keys(value: &Value, keys: &[&str]) {
    for key in value
        .as_object()
        .unwrap_or_else(|| panic!("{value}"))
        .keys()
    {
        assert!(keys.contains(&key.as_str()), "{key} is none of {keys:?}");
    }
}

/// Five fields, as cron has them; each service reads UTC.
fn is_cron(value: &Value) {
    let text = value.as_str().unwrap();
    assert_eq!(text.split_whitespace().count(), 5, "{text}");
}

#[test]
fn azure_pipelines_would_take_the_template() {
    let all = template("azure-pipelines.yml");
    only_keys(
        &all,
        &["trigger", "schedules", "pool", "variables", "steps"],
    );
    list(&all["trigger"]["branches"]["include"], "branches");
    for schedule in list(&all["schedules"], "schedules") {
        only_keys(schedule, &["cron", "displayName", "branches", "always"]);
        is_cron(&schedule["cron"]);
        list(&schedule["branches"]["include"], "branches");
        assert_eq!(schedule["always"], true, "a new model is no new commit");
    }
    assert!(all["pool"]["vmImage"].is_string());
    let mut commands = Vec::new();
    for step in list(&all["steps"], "steps") {
        let shared = ["displayName", "name", "env", "condition"];
        match kind(step, &["checkout", "script", "task"]) {
            "checkout" => only_keys(step, &["checkout", "fetchDepth"]),
            "script" => {
                only_keys(step, &[&["script"], &shared[..]].concat());
                commands.push(step["script"].as_str().unwrap());
            }
            _ => {
                only_keys(step, &[&["task", "inputs"], &shared[..]].concat());
                let (name, version) = step["task"].as_str().unwrap().split_once('@').unwrap();
                assert!(!name.is_empty() && version.parse::<u8>().is_ok());
                assert!(step["inputs"].is_object());
            }
        }
    }
    takes(&commands);
    secrets_come_by_name(&all, "$(");
}

#[test]
fn github_actions_would_take_the_template() {
    let all = template("github-workflow.yml");
    only_keys(&all, &["name", "on", "concurrency", "permissions", "jobs"]);
    only_keys(&all["on"], &["push", "schedule", "workflow_dispatch"]);
    list(&all["on"]["push"]["branches"], "branches");
    for schedule in list(&all["on"]["schedule"], "schedule") {
        is_cron(&schedule["cron"]);
    }
    assert!(all["concurrency"]["group"].is_string());
    let mut commands = Vec::new();
    for job in all["jobs"].as_object().unwrap().values() {
        assert!(job["runs-on"].is_string());
        for step in list(&job["steps"], "steps") {
            if kind(step, &["uses", "run"]) == "run" {
                only_keys(step, &["name", "run", "env", "if", "id"]);
                commands.push(step["run"].as_str().unwrap());
            } else {
                only_keys(step, &["name", "uses", "with", "if", "id"]);
                assert!(step["uses"].as_str().unwrap().contains('@'), "{step}");
            }
        }
    }
    takes(&commands);
    secrets_come_by_name(&all, "${{ ");
}

/// Each `modelship …` of `scripts` is a command line that the program takes: what it complains
/// about is the configuration, not its arguments.
fn takes(scripts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let lines = scripts.iter().flat_map(|script| script.lines());
    let own: Vec<_> = lines
        .filter_map(|line| line.trim().strip_prefix("modelship "))
        .collect();
    assert!(!own.is_empty(), "no script runs modelship");
    for arguments in own {
        let mut command = program(MODELSHIP, folder.path());
        said(command.args(words(arguments)))
            .refused("configure", &["modelship.toml"])
            .next("modelship init");
    }
}

/// Environment values of steps are references, never text that could be a secret.
fn secrets_come_by_name(value: &Value, reference: &str) {
    match value {
        Value::Array(all) => all.iter().for_each(|v| secrets_come_by_name(v, reference)),
        Value::Object(all) => {
            for (key, value) in all {
                if key == "env" {
                    for text in value.as_object().unwrap().values() {
                        assert!(text.as_str().unwrap().starts_with(reference), "{text}");
                    }
                }
                secrets_come_by_name(value, reference);
            }
        }
        _ => {}
    }
}
