//! Changes of a live policy: single rules, changes that wait to be confirmed, versions.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::thread;
use std::time::Duration;

use portcullis::clock::{MonotonicClock, Tick};
use portcullis::control::{Client, Command, RuleAddRequest, RuleChanged, RuleRemoveRequest};
use portcullis::types::Direction;
use serde_json::{Value, json};

use super::{Folder, Gateway, policy, text, wait_for};

/// Puts a policy for one port beside the configured one; its path.
fn next(gateway: &Gateway, port: u16) -> String {
    let path = gateway.folder.write("next.toml", &policy(port));
    path.to_str().unwrap().to_owned()
}

/// What a command prints with `--json`.
#[track_caller]
fn done(gateway: &Gateway, arguments: &[&str]) -> Value {
    let output = gateway.ask(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a command says that is refused.
#[track_caller]
fn refused(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = gateway.ask(arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(output.stdout.is_empty());
    text(&output.stderr)
}

/// Whether the policy in force lets TCP to a port of the interface in.
fn admits(gateway: &Gateway, port: u16) -> bool {
    let to = format!("10.9.0.1:{port}");
    let arguments = [
        "explain",
        "--from",
        "192.0.2.1",
        "--to",
        &to,
        "--protocol",
        "tcp",
    ];
    done(gateway, &arguments)["verdict"] == "allow"
}

fn sources(gateway: &Gateway) -> Vec<(u64, String)> {
    let history = done(gateway, &["history"]);
    let versions = history["versions"].as_array().unwrap();
    let row = |row: &Value| {
        let source = row["source"].as_str().unwrap().to_owned();
        (row["generation"].as_u64().unwrap(), source)
    };
    versions.iter().map(row).collect()
}

fn file(gateway: &Gateway) -> String {
    fs::read_to_string(gateway.folder.0.join("policy.toml")).unwrap()
}

#[test]
fn single_rules_come_and_go() {
    let Some(gateway) = Gateway::logging("rules") else {
        return;
    };
    let entry = "{ protocol = \"tcp\", ports = [443, 444], from = [\"0.0.0.0/0\"] }";
    let added = done(&gateway, &["rule", "add", "WEB", "ingress", entry]);
    assert_eq!(added["generation"], 2);
    let rules = added["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 2);
    assert_eq!(rules[0]["rule"], "tcp 443, 0.0.0.0/0");
    let id = |index: usize| rules[index]["id"].as_str().unwrap().to_owned();
    assert!(admits(&gateway, 443) && admits(&gateway, 444));
    let twice = refused(&gateway, &["rule", "add", "web", "ingress", entry]);
    assert!(twice.contains("InvalidPermission.Duplicate"), "{twice}");
    assert!(twice.contains(&id(0)), "{twice}");
    let bad = "{ protocol = \"tcp\",\n  prots = 1, from = \"::/0\" }";
    let bad = refused(&gateway, &["rule", "add", "web", "egress", bad]);
    assert!(
        bad.contains("rule:2:3: error: unknown key `prots`"),
        "{bad}"
    );
    let nobody = refused(&gateway, &["rule", "add", "wep", "ingress", entry]);
    assert!(nobody.contains("did you mean `web`?"), "{nobody}");
    let unknown = refused(&gateway, &["rule", "remove", &id(0), "sgr-0"]);
    assert!(unknown.contains("there is no rule `sgr-0`"), "{unknown}");
    let usage = gateway.ask(&["rule", "add", "web", "inward", entry]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(admits(&gateway, 443), "nothing that was refused changed it");
    assert_eq!(gateway.status()["generation"], 2);
    let removed = gateway.ask(&["rule", "remove", &id(0), &id(1)]);
    let said = text(&removed.stdout);
    assert!(
        said.starts_with(&format!("- {} `web` ingress tcp 443, 0.0.0.0/0\n", id(0))),
        "{said}"
    );
    assert!(!admits(&gateway, 443) && admits(&gateway, 80));
    assert_eq!(gateway.status()["snapshot"]["rules"], 6);
    assert_eq!(file(&gateway), policy(80), "the file is as it was");
    gateway.folder.write("policy.toml", &policy(81));
    wait_for("the file is in force", || admits(&gateway, 81));
}

#[test]
fn a_change_that_is_not_confirmed_goes_back_by_itself() {
    let Some(gateway) = Gateway::logging("unconfirmed") else {
        return;
    };
    let path = next(&gateway, 81);
    let clock = MonotonicClock::start();
    let applied = done(
        &gateway,
        &["apply", &path, "--save", "--confirm-within", "3s"],
    );
    assert_eq!(applied["confirmation"]["rollback_to"], 1);
    assert!(admits(&gateway, 81), "it is published at once");
    let pending = &gateway.status()["confirmation"];
    assert_eq!(pending["generation"], 2);
    assert!(pending["left_ms"].as_u64().unwrap() <= 3000);
    let shown = text(&gateway.ask(&["status"]).stdout);
    assert!(
        shown.contains("waits for `portcullis confirm` until 2"),
        "{shown}"
    );
    let apply = refused(&gateway, &["apply", &path]);
    assert!(
        apply.contains("generation 2 waits to be confirmed"),
        "{apply}"
    );
    let entry = "{ protocol = \"tcp\", ports = 443, from = [\"0.0.0.0/0\"] }";
    let rule = refused(&gateway, &["rule", "add", "web", "ingress", entry]);
    assert!(
        rule.contains("generation 2 waits to be confirmed"),
        "{rule}"
    );
    let staged = refused(&gateway, &["apply", &path, "--confirm-within", "9s"]);
    assert!(
        staged.contains("`portcullis rollback` comes first"),
        "{staged}"
    );
    assert!(gateway.ask(&["apply", &path, "--dry-run"]).status.success());
    wait_for("it goes back", || gateway.status()["generation"] == 3);
    assert!(clock.now() >= Tick::from_seconds(3), "not too early");
    assert!(admits(&gateway, 80) && !admits(&gateway, 81));
    assert_eq!(file(&gateway), policy(80), "nothing was saved");
    assert_eq!(gateway.status()["confirmation"], Value::Null);
    let late = refused(&gateway, &["confirm"]);
    assert!(late.contains("nothing waits to be confirmed"), "{late}");
    let list = sources(&gateway);
    assert_eq!(list[0], (3, "auto-rollback".to_owned()));
    assert!(gateway.log().contains("not confirmed in time"));
    assert!(gateway.wire.pings());
}

#[test]
fn a_change_that_is_confirmed_stays_and_is_saved() {
    let Some(gateway) = Gateway::logging("confirmed") else {
        return;
    };
    let path = next(&gateway, 81);
    done(
        &gateway,
        &["apply", &path, "--save", "--confirm-within", "5s"],
    );
    assert_eq!(file(&gateway), policy(80), "not yet");
    let confirmed = done(&gateway, &["confirm"]);
    assert_eq!(confirmed, json!({ "generation": 2, "saved": true }));
    assert_eq!(file(&gateway), policy(81));
    thread::sleep(Duration::from_secs(6));
    assert_eq!(gateway.status()["generation"], 2);
    assert!(admits(&gateway, 81));
    // The same content again is no change that could go back.
    let again = done(&gateway, &["apply", &path, "--confirm-within", "5s"]);
    assert_eq!(
        (&again["unchanged"], &again["confirmation"]),
        (&json!(true), &Value::Null)
    );
    // What a person decides ends the wait: the file,
    let path = next(&gateway, 82);
    done(&gateway, &["apply", &path, "--confirm-within", "60s"]);
    gateway.folder.write("policy.toml", &policy(83));
    wait_for("the file is in force", || admits(&gateway, 83));
    assert_eq!(gateway.status()["confirmation"], Value::Null);
    // but not one that is refused;
    done(&gateway, &["apply", &path, "--confirm-within", "60s"]);
    gateway.folder.write("policy.toml", "[interfaces");
    wait_for("it is read", || gateway.log().contains("policy refused"));
    assert_eq!(gateway.status()["confirmation"]["generation"], 4 + 1);
    // and a rollback.
    let back = done(&gateway, &["rollback"]);
    assert_eq!(
        (&back["generation"], &back["content_of"]),
        (&json!(6), &json!(4))
    );
    assert!(admits(&gateway, 83));
    assert_eq!(gateway.status()["confirmation"], Value::Null);
}

#[test]
fn a_restart_while_a_change_waits_loads_the_file() {
    let Some(mut gateway) = Gateway::logging("restart") else {
        return;
    };
    let path = next(&gateway, 81);
    done(
        &gateway,
        &["apply", &path, "--save", "--confirm-within", "60s"],
    );
    assert_eq!(gateway.stop(), Some(0));
    gateway.start_again();
    assert!(admits(&gateway, 80) && !admits(&gateway, 81));
    assert_eq!(gateway.status()["confirmation"], Value::Null);
}

#[test]
fn versions_are_listed_and_brought_back() {
    let Some(gateway) = Gateway::logging("versions") else {
        return;
    };
    let first = refused(&gateway, &["rollback"]);
    assert!(first.contains("there is no version before"), "{first}");
    for port in [81, 82] {
        done(&gateway, &["apply", &next(&gateway, port)]);
    }
    let back = gateway.ask(&["rollback", "1"]);
    let said = text(&back.stdout);
    assert!(
        said.contains("- rule of `web`: ingress tcp 82, 0.0.0.0/0\n"),
        "{said}"
    );
    assert!(said.contains("generation 4, as 1 was, in force"), "{said}");
    assert!(admits(&gateway, 80) && !admits(&gateway, 82));
    let unknown = refused(&gateway, &["rollback", "77"]);
    assert!(unknown.contains("there are 4, 3, 2, 1"), "{unknown}");
    let history = done(&gateway, &["history"]);
    let rows = history["versions"].as_array().unwrap();
    let shown: Vec<_> = rows
        .iter()
        .map(|row| (row["source"].as_str().unwrap(), row["in_force"] == true))
        .collect();
    assert_eq!(
        shown,
        [
            ("rollback", true),
            ("apply", false),
            ("apply", false),
            ("file", false)
        ]
    );
    assert_eq!(
        (&rows[0]["added"], &rows[0]["removed"]),
        (&json!(1), &json!(1))
    );
    let time = rows[0]["time"].as_str().unwrap();
    assert_eq!((time.len(), &time[10..11], &time[23..]), (24, "T", "Z"));
    let lines = text(&gateway.ask(&["history"]).stdout);
    assert!(lines.starts_with("* 4 "), "{lines}");
    assert_eq!(lines.lines().count(), 4);
}

/// A command that adds a rule for one address.
fn add(number: u32) -> Command {
    Command::RuleAdd(RuleAddRequest {
        group: "web".to_owned(),
        direction: Direction::Ingress,
        entry: format!(
            "{{ protocol = \"tcp\", ports = 443, from = \"10.1.{}.{}/32\" }}",
            number >> 8,
            number & 255
        ),
        timeout_ms: 20_000,
    })
}

#[test]
fn many_changes_over_one_connection_are_each_answered_when_live() {
    const CHANGES: u32 = 3000;
    let Some(gateway) = Gateway::logging("many") else {
        return;
    };
    let mut client = Client::connect(&gateway.folder.0.join("control.sock")).unwrap();
    let mut commands: Vec<Command> = (0..CHANGES).map(add).collect();
    // One that is refused takes no other with it.
    commands.insert(1000, add(7));
    let clock = MonotonicClock::start();
    let mut answers = client.request_all::<RuleChanged>(&commands).unwrap();
    let time = clock.now().since(Tick::default());
    println!("{CHANGES} rule changes, pipelined: {time:?}");
    let refusal = answers.remove(1000).unwrap_err();
    assert!(refusal.message.contains("InvalidPermission.Duplicate"));
    let answers: Vec<RuleChanged> = answers.into_iter().map(Result::unwrap).collect();
    let generations: Vec<u64> = answers.iter().map(|one| one.generation).collect();
    assert!(generations.is_sorted());
    let last = *generations.last().unwrap();
    assert_eq!(gateway.status()["generation"], last);
    assert!(last < 1000, "many are published together: {last}");
    assert_eq!(gateway.status()["snapshot"]["rules"], 6 + CHANGES);
    assert!(sources(&gateway).len() <= 20, "a run is one version");
    let ids = answers.iter().map(|one| one.rules[0].id.clone()).collect();
    let remove = Command::RuleRemove(RuleRemoveRequest {
        ids,
        timeout_ms: 20_000,
    });
    let removed: RuleChanged = client.request(&remove).unwrap();
    assert_eq!(removed.rules.len(), CHANGES as usize);
    assert_eq!(gateway.status()["snapshot"]["rules"], 6);
    assert!(gateway.wire.pings());
}

#[test]
fn answers_keep_the_order_of_what_was_sent_ahead() {
    let Some(gateway) = Gateway::logging("ahead") else {
        return;
    };
    let mut stream = gateway.connect();
    let rule = |number| serde_json::to_string(&add(number)).unwrap();
    let lines = [
        rule(1),
        "nonsense".to_owned(),
        rule(2),
        "{\"command\":\"history\"}".to_owned(),
        rule(2),
        rule(3),
    ];
    stream
        .write_all((lines.join("\n") + "\n").as_bytes())
        .unwrap();
    let answers = BufReader::new(&stream).lines().take(lines.len());
    let answers: Vec<Value> = answers
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    let kinds: Vec<bool> = answers.iter().map(|one| one.get("ok").is_some()).collect();
    assert_eq!(kinds, [true, false, true, true, false, true]);
    let listed = &answers[3]["ok"]["versions"][0];
    assert_eq!(listed["added"], 2, "it sees what was sent before it");
    assert_eq!(answers[5]["ok"]["rules"][0]["rule"], "tcp 443, 10.1.0.3/32");
}

#[test]
fn without_a_gateway_each_command_fails_with_one_line() {
    let nobody = Folder::new("nobody");
    for arguments in [
        &["confirm"][..],
        &["history"],
        &["rollback", "1"],
        &["rule", "remove", "sgr-0"],
        &["rule", "add", "web", "ingress", "{}"],
    ] {
        let output = super::portcullis(&nobody.0, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(text(&output.stderr).lines().count(), 1);
    }
    for arguments in [
        &["rollback", "x"][..],
        &["rule", "remove"],
        &["apply", "p", "--confirm-within", "0s"],
        &["apply", "p", "--confirm-within", "5s", "--dry-run"],
    ] {
        let output = super::portcullis(&nobody.0, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
