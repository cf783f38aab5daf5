//! Single rules against whole documents.

use super::*;
use crate::policy::of_text as policy;

const EXAMPLE: &str = include_str!("../../../configs/policy.toml");

fn editor() -> RuleEditor {
    RuleEditor::new(Arc::new(policy(EXAMPLE)))
}

fn add(editor: &mut RuleEditor, group: &str, entry: &str) -> Result<AddedRules, EditError> {
    editor.add(group, Direction::Ingress, &Source::new("rule", entry))
}

fn ids(rules: &[EditedRule]) -> Vec<String> {
    rules.iter().map(|rule| rule.id.to_string()).collect()
}

#[track_caller]
fn problems(error: EditError) -> String {
    match error {
        EditError::Entry(report) => report.to_string(),
        other => panic!("{other}"),
    }
}

/// What an editor keeps beside the policy is what a new one would.
#[track_caller]
fn assert_consistent(editor: &RuleEditor) {
    let fresh = RuleEditor::new(Arc::clone(&editor.policy));
    assert_eq!(editor.rules_count, fresh.rules_count);
    assert_eq!(editor.by_id.table.len(), fresh.by_id.table.len());
    assert_eq!(editor.by_content.table.len(), fresh.by_content.table.len());
    for group in &editor.policy.groups {
        for rule in group.ingress.iter().chain(&group.egress) {
            assert!(editor.find_rule(rule.id.as_str()).is_some());
        }
    }
}

#[test]
fn what_is_added_is_what_the_document_would_have_had() {
    // The oracle: the whole document with the entry at the end of the group's list.
    for entry in [
        "{ protocol = \"tcp\", ports = 443, from = [\"10.0.0.0/8\"], description = \"x\" }",
        "{ protocol = \"udp\", ports = [53, \"100-200\"], from = [\"self\", \"group:LB-sg\"] }",
        "{ protocol = \"all\", from = \"prefix-list:admins\" }",
        "{ protocol = \"icmpv6\", from = \"::/0\", id = \"sgr-0123456789abcdef0\" }",
    ] {
        let mut editor = editor();
        add(&mut editor, "db-sg", entry).unwrap();
        let old = "from = \"self\", description = \"replication\" },";
        assert_eq!(EXAMPLE.matches(old).count(), 1);
        let text = EXAMPLE.replace(old, &format!("{old}\n  {entry},"));
        assert_eq!(**editor.policy(), policy(&text), "{entry}");
        assert_consistent(&editor);
    }
}

#[test]
fn what_is_added_and_removed_leaves_the_policy_as_it_was() {
    let mut editor = editor();
    let before = Arc::clone(editor.policy());
    let entry = "{ protocol = \"tcp\", ports = [1, 2], from = [\"10.0.0.0/8\", \"::/0\"] }";
    let added = add(&mut editor, "sg-none", entry);
    assert!(matches!(added, Err(EditError::NoGroup { .. })));
    let group_id = before.groups[0].id.to_string();
    let added = ids(&add(&mut editor, &group_id, entry).unwrap().rules);
    assert_eq!(added.len(), 4);
    assert_ne!(*before, **editor.policy());
    let removed = editor.remove(&added).unwrap();
    assert_eq!(ids(&removed), added);
    assert_eq!(before, *editor.policy());
    assert_consistent(&editor);
}

#[test]
fn groups_that_did_not_change_are_shared() {
    let mut editor = editor();
    let before = Arc::clone(editor.policy());
    add(
        &mut editor,
        "db-sg",
        "{ protocol = \"tcp\", from = \"10.0.0.0/8\" }",
    )
    .unwrap();
    let after = editor.policy();
    let shared = before.groups.iter().zip(&after.groups);
    let shared: Vec<bool> = shared.map(|(one, other)| Arc::ptr_eq(one, other)).collect();
    assert_eq!(shared.iter().filter(|shared| !**shared).count(), 1);
    assert!(Arc::ptr_eq(&before.interfaces[0], &after.interfaces[0]));
}

#[test]
fn a_rule_that_is_there_is_refused_whole_and_named() {
    let mut editor = editor();
    let before = Arc::clone(editor.policy());
    let entry = "{ protocol = \"tcp\", ports = [9, 443], from = \"0.0.0.0/0\" }";
    let error = add(&mut editor, "web-server-sg", entry).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("InvalidPermission.Duplicate"), "{text}");
    assert!(text.contains("ingress tcp 443, 0.0.0.0/0"), "{text}");
    assert!(Arc::ptr_eq(&before, editor.policy()));
    // The other direction and another group are other rules.
    let entry = "{ protocol = \"tcp\", ports = 443, from = \"0.0.0.0/0\" }";
    add(&mut editor, "db-sg", entry).unwrap();
    let egress = Source::new("rule", entry.replace("from", "to"));
    editor.add("db-sg", Direction::Egress, &egress).unwrap();
}

#[test]
fn an_id_of_another_rule_is_refused() {
    let mut editor = editor();
    let taken = editor.policy().groups[0].ingress[0].id.clone();
    let entry = format!("{{ protocol = \"tcp\", ports = 9, from = \"::/0\", id = \"{taken}\" }}");
    let error = add(&mut editor, "db-sg", &entry).unwrap_err();
    assert!(matches!(error, EditError::IdTaken(_)), "{error}");
    assert!(error.to_string().contains("of `lb-sg`"), "{error}");
}

#[test]
fn errors_are_located_in_the_given_text() {
    let mut editor = editor();
    for (entry, wanted) in [
        (
            "{ protocol = \"tcp\", ports = 443, form = [\"10.0.0.0/8\"] }",
            "rule:1:34: error: unknown key `form`",
        ),
        (
            "{ protocol = \"tcp\", ports = 70000, from = \"10.0.0.0/8\" }",
            "rule:1:29: error: ",
        ),
        (
            "{ protocol = \"tcp\", from = [\"group:lb\"] }",
            "rule:1:29: error: there is no security group `lb`",
        ),
        ("\"tcp\"", "rule:1:1: error: `rule` must be a table"),
        (
            "{ protocol = \"tcp\", to = \"10.0.0.0/8\" }",
            "rule:1:21: error: an ingress rule has no",
        ),
        ("{ protocol = ", "rule:1:"),
        ("", "rule:1:"),
        (
            "{ protocol = \"tcp\", from = \"10.0.0.0/8\" } { }",
            "rule:1:42: error: this is not valid TOML",
        ),
        ("a\0b", "rule:1:2: error: there is a NUL"),
    ] {
        let text = problems(add(&mut editor, "db-sg", entry).unwrap_err());
        assert!(text.starts_with(wanted), "{entry}: {text}");
    }
}

#[test]
fn an_unknown_group_or_rule_brings_the_nearest() {
    let mut editor = editor();
    let error = add(&mut editor, "web-servr-sg", "{}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no security group `web-servr-sg`; did you mean `web-server-sg`?"
    );
    let id = editor.policy().groups[0].ingress[0].id.to_string();
    let typo = format!("{}x", &id[..id.len() - 1]);
    let again = editor.remove(std::slice::from_ref(&typo)).unwrap_err();
    assert_eq!(again.to_string(), format!("there is no rule `{typo}`"));
    editor.allow_search();
    let error = editor.remove(std::slice::from_ref(&typo)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("there is no rule `{typo}`; did you mean `{id}`?")
    );
    let twice = editor.remove(&[id.clone(), id.clone()]).unwrap_err();
    assert!(matches!(twice, EditError::Twice(_)));
    let before = Arc::clone(editor.policy());
    assert!(editor.remove(&[id, typo]).is_err(), "all or none");
    assert!(Arc::ptr_eq(&before, editor.policy()));
}
