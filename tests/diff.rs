//! `portcullis diff` as people and scripts use it: its lines, its JSON, its exit codes.
#![cfg(test)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

const POLICY: &str = r#"
[security_groups.web]
description = "web"
ingress = [
  { protocol = "tcp", ports = [80, 443], from = ["0.0.0.0/0", "::/0"] },
  { protocol = "tcp", ports = 22, from = ["prefix-list:admins"] },
]
egress = []
[prefix_lists.admins]
entries = ["198.51.100.0/24"]
[interfaces.web-1]
addresses = ["10.0.0.1"]
groups = ["web"]
[interfaces.web-2]
addresses = ["10.0.0.2"]
groups = ["web"]
"#;

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("portcullis-diff-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn diff(&self, old: &str, new: &str, more: &[&str]) -> Output {
        fs::write(self.0.join("old.toml"), old).unwrap();
        fs::write(self.0.join("new.toml"), new).unwrap();
        Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["diff", "old.toml", "new.toml"])
            .args(more)
            .current_dir(&self.0)
            .output()
            .unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_differs_is_said_in_lines_and_exits_with_1() {
    let folder = Folder::new("lines");
    let new = POLICY
        .replace("[80, 443]", "443")
        .replace("ports = 22", "ports = \"20-22\"");
    let said = folder.diff(POLICY, &new, &[]);
    assert_eq!(said.status.code(), Some(1));
    assert_eq!(
        text(&said.stdout),
        "web-1, web-2\n  + ingress tcp 20-21 from prefix-list:admins\n  - ingress tcp 80 from any\n\
         2 interfaces gain traffic, 2 interfaces lose some\n"
    );
    assert_eq!(text(&said.stderr), "");
}

#[test]
fn the_same_traffic_exits_with_0() {
    let folder = Folder::new("same");
    let new = POLICY.replace(
        "ports = [80, 443]",
        "ports = [443, \"80-80\"], description = \"d\"",
    );
    let said = folder.diff(POLICY, &new, &[]);
    assert_eq!(text(&said.stdout), "the same traffic is allowed\n");
    assert_eq!(said.status.code(), Some(0));
    let said = folder.diff(POLICY, &new, &["--json"]);
    let answer: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(
        (&answer["same"], &answer["changes"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(said.status.code(), Some(0));
}

#[test]
fn json_has_every_address() {
    let folder = Folder::new("json");
    let entries: Vec<_> = (0..40)
        .map(|i| format!("\"192.0.2.{}/32\"", 2 * i))
        .collect();
    let new = POLICY.replace("\"198.51.100.0/24\"", &entries.join(", "));
    let said = folder.diff(POLICY, &new, &["--json"]);
    assert_eq!(said.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&said.stdout).unwrap();
    let change = &answer["changes"][0];
    assert_eq!(change["interfaces"][1]["name"], "web-2");
    assert_eq!(
        change["gained"][0]["addresses"].as_array().unwrap().len(),
        40
    );
    assert_eq!(
        change["lost"][0],
        json!({
            "direction": "ingress",
            "services": [{ "protocol": "tcp", "ports": ["22"] }],
            "addresses": ["198.51.100.0/24"],
            "peers": [],
            "other_addresses": [],
            "more_services": 0,
            "more_addresses": 0,
            "more_other_addresses": 0,
        })
    );
    let said = folder.diff(POLICY, &new, &[]);
    assert!(
        text(&said.stdout).contains("192.0.2.30 and 24 more\n"),
        "{}",
        text(&said.stdout)
    );
}

#[test]
fn what_cannot_be_read_exits_with_2_and_says_where_it_is_wrong() {
    let folder = Folder::new("bad");
    let bad = POLICY.replace("prefix-list:admins", "prefix-list:admin");
    let said = folder.diff(POLICY, &bad, &[]);
    assert_eq!(
        (said.status.code(), text(&said.stdout)),
        (Some(2), String::new())
    );
    assert!(
        text(&said.stderr).contains("new.toml:6:"),
        "{}",
        text(&said.stderr)
    );
    let said = folder.diff(&bad, &bad, &["--json"]);
    assert_eq!(said.status.code(), Some(2));
    let errors = text(&said.stderr);
    assert!(
        errors.contains("old.toml:6:") && errors.contains("new.toml:6:"),
        "{errors}"
    );
    let said = folder.diff(POLICY, POLICY, &["third.toml"]);
    assert_eq!(said.status.code(), Some(2));
}
