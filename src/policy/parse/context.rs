//! What readers of all parts of a policy share: where problems go, and which names there are.

use std::collections::HashMap;

use super::KnownLinks;
use super::lookup::PolicyNames;
use super::names::{Kind, check_name, names_nothing};
use crate::document::{Diagnostic, Diagnostics, Span, Table, Text, Value, alternatives, quoted};
use crate::policy::id::derive;
use crate::policy::{GroupIndex, Policy, PrefixListIndex};

/// The group that is used where an interface names none.
pub(super) const DEFAULT_GROUP: &str = "default";

/// Hexadecimal digits that an id may have after its prefix: AWS's old and new form.
const ID_DIGITS: [usize; 2] = [8, 17];

/// An entry of one of the three tables: its name and what it says.
pub(super) type Entry<'d> = (Text<'d>, Value<'d>);

/// What readers share.
pub(super) struct Context<'d, 'c> {
    /// Which links there are.
    pub(super) links: KnownLinks<'c>,
    /// Where problems go.
    pub(super) diagnostics: &'c mut Diagnostics,
    groups: Names<'d>,
    prefix_lists: Names<'d>,
    /// Interfaces so far that have limits of their own.
    pub(super) limited_interfaces: usize,
    /// Given ids and where.
    ids: HashMap<&'d str, Span>,
}

/// Names of one kind in the order of the document; and by the lower case of each, where it is.
type Collected<'d> = (Vec<&'d str>, HashMap<String, (u32, Span)>);

/// Names of one kind, found ignoring case.
enum Names<'d> {
    /// Of the document, in its order, and where they are.
    Read {
        names: Vec<&'d str>,
        found: HashMap<String, (u32, Span)>,
    },
    /// Of a policy that was read before.
    Known(&'d PolicyNames),
}

impl<'d> Names<'d> {
    fn new() -> Self {
        Self::Read {
            names: Vec::new(),
            found: HashMap::new(),
        }
    }

    fn find(&self, name: &str) -> Option<u32> {
        let key = name.to_ascii_lowercase();
        match self {
            Self::Read { found, .. } => found.get(&key).map(|(index, _)| *index),
            Self::Known(names) => names.find(&key),
        }
    }

    fn at(&self, index: u32) -> &'d str {
        match self {
            Self::Read { names, .. } => {
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                names.get(index).copied().unwrap_or_default()
            }
            Self::Known(names) => names.at(index),
        }
    }

    fn len(&self) -> u32 {
        match self {
            Self::Read { names, .. } => index_u32(names.len()),
            Self::Known(names) => names.len(),
        }
    }
}

impl<'d, 'c> Context<'d, 'c> {
    pub(super) fn new(links: KnownLinks<'c>, diagnostics: &'c mut Diagnostics) -> Self {
        Self {
            links,
            diagnostics,
            groups: Names::new(),
            prefix_lists: Names::new(),
            limited_interfaces: 0,
            ids: HashMap::new(),
        }
    }

    /// A context in which a part of a policy that was read before is read.
    pub(super) fn of_policy(
        groups: &'d PolicyNames,
        prefix_lists: &'d PolicyNames,
        diagnostics: &'c mut Diagnostics,
    ) -> Self {
        Self {
            groups: Names::Known(groups),
            prefix_lists: Names::Known(prefix_lists),
            ..Self::new(KnownLinks::Unknown, diagnostics)
        }
    }

    /// Learns the names of groups; the last is `default` where none has this name.
    pub(super) fn name_groups(&mut self, entries: &[Entry<'d>]) {
        let (mut names, mut found) = self.collect(entries, Kind::Group);
        if !found.contains_key(DEFAULT_GROUP) {
            names.push(DEFAULT_GROUP);
            let index = index_u32(entries.len());
            found.insert(DEFAULT_GROUP.to_owned(), (index, 0..0));
        }
        self.groups = Names::Read { names, found };
    }

    /// Learns the names of prefix lists.
    pub(super) fn name_prefix_lists(&mut self, entries: &[Entry<'d>]) {
        let (names, found) = self.collect(entries, Kind::PrefixList);
        self.prefix_lists = Names::Read { names, found };
    }

    /// Checks the names of interfaces, which nothing refers to.
    pub(super) fn name_interfaces(&mut self, entries: &[Entry<'d>]) {
        self.collect(entries, Kind::Interface);
    }

    fn collect(&mut self, entries: &[Entry<'d>], kind: Kind) -> Collected<'d> {
        let (mut names, mut found) = Collected::default();
        for (index, (name, _)) in entries.iter().enumerate() {
            check_name(name, kind, self.diagnostics);
            names.push(name.text);
            let key = name.text.to_ascii_lowercase();
            if let Some((_, first)) = found.get(&key) {
                let what = kind.noun();
                let problem = Diagnostic::error(format!(
                    "the {what} {} is there twice: case does not tell names apart",
                    quoted(name.text)
                ));
                let problem = problem
                    .at(name.span.clone())
                    .label("again here")
                    .help("rename one of the two, or join them")
                    .related(first.clone(), "first here");
                self.diagnostics.push(problem);
                continue;
            }
            found.insert(key, (index_u32(index), name.span.clone()));
        }
        if matches!(kind, Kind::Group) {
            self.warn_of_empty_names(entries);
        }
        (names, found)
    }

    fn warn_of_empty_names(&mut self, entries: &[Entry<'d>]) {
        for (name, _) in entries.iter().filter(|(name, _)| names_nothing(name.text)) {
            let warning = Diagnostic::warning(format!(
                "the group name {} says nothing about its purpose",
                quoted(name.text)
            ));
            let warning = warning
                .at(name.span.clone())
                .help("name it after what its members do, as `web-server-sg`")
                .kind("group names say nothing about their purpose");
            self.diagnostics.push(warning);
        }
    }

    /// The group `default`.
    pub(super) fn default_group(&self) -> GroupIndex {
        GroupIndex(self.groups.find(DEFAULT_GROUP).unwrap_or(0))
    }

    /// Whether the document has a group of its own for the index.
    pub(super) fn group_name(&self, index: GroupIndex) -> &'d str {
        self.groups.at(index.0)
    }

    /// The name of a prefix list.
    pub(super) fn prefix_list_name(&self, index: PrefixListIndex) -> &'d str {
        self.prefix_lists.at(index.0)
    }

    /// Whether there is such a group, for remedies.
    pub(super) fn has_group(&self, name: &str) -> bool {
        self.groups.find(name).is_some()
    }

    /// Whether there is such a prefix list, for remedies.
    pub(super) fn has_prefix_list(&self, name: &str) -> bool {
        self.prefix_lists.find(name).is_some()
    }

    /// The group of a name, reported if there is none.
    pub(super) fn group(&mut self, name: &str, span: &Span) -> Option<GroupIndex> {
        let index = find(&self.groups, name, span, Kind::Group, self.diagnostics);
        index.map(GroupIndex)
    }

    /// The prefix list of a name, reported if there is none.
    pub(super) fn prefix_list(&mut self, name: &str, span: &Span) -> Option<PrefixListIndex> {
        let lists = &self.prefix_lists;
        let index = find(lists, name, span, Kind::PrefixList, self.diagnostics);
        index.map(PrefixListIndex)
    }

    /// The id that is given, or else one that is derived from the name.
    pub(super) fn id_of(&mut self, table: &Table<'d>, prefix: &str, name: &str) -> Box<str> {
        self.given_id(table, prefix)
            .unwrap_or_else(|| derive(prefix, &[&name.to_ascii_lowercase()]))
    }

    /// The id that is given, checked.
    pub(super) fn given_id(&mut self, table: &Table<'d>, prefix: &str) -> Option<Box<str>> {
        let text = table.string("id", self.diagnostics)?;
        let digits = text.text.strip_prefix(prefix).unwrap_or_default();
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !ID_DIGITS.contains(&digits.len()) || !digits.bytes().all(hex) {
            let problem = Diagnostic::error(format!(
                "{} is no id: `{prefix}` and 8 or 17 digits of 0-9 and a-f",
                quoted(text.text)
            ));
            let help = "leave `id` out to have one derived, or write the one that AWS gave";
            self.diagnostics.push(problem.at(text.span).help(help));
            return None;
        }
        if let Some(first) = self.ids.get(text.text) {
            let problem = Diagnostic::error(format!("the id {} is given twice", text.text))
                .at(text.span.clone())
                .label("again here")
                .help("leave `id` out of one of the two")
                .related(first.clone(), "first here");
            self.diagnostics.push(problem);
            return None;
        }
        self.ids.insert(text.text, text.span);
        Some(text.text.into())
    }

    /// A given id may be one that is derived for something else.
    pub(super) fn refuse_ids_used_twice(&mut self, policy: &Policy) {
        if self.ids.is_empty() {
            return;
        }
        let mut uses: HashMap<&str, usize> = self.ids.keys().map(|id| (*id, 0)).collect();
        for id in all_ids(policy) {
            if let Some(count) = uses.get_mut(id) {
                *count += 1;
            }
        }
        for (id, count) in uses {
            if count > 1 {
                let span = self.ids.get(id).cloned().unwrap_or_default();
                let message = format!("the id {id} is the one derived for another entry");
                let help = "leave `id` out here";
                self.diagnostics
                    .push(Diagnostic::error(message).at(span).help(help));
            }
        }
    }
}

/// A name's index, ignoring case. What is not there may be so because of broken syntax.
fn find(
    names: &Names<'_>,
    name: &str,
    span: &Span,
    kind: Kind,
    diagnostics: &mut Diagnostics,
) -> Option<u32> {
    if let Some(index) = names.find(name) {
        return Some(index);
    }
    let what = kind.noun();
    let known = (0..names.len()).map(|index| names.at(index));
    let help = alternatives(name, known, diagnostics);
    let problem = Diagnostic::error(format!("there is no {what} {}", quoted(name)));
    diagnostics.missing(problem.at(span.clone()).help(help));
    None
}

/// Every id of a policy.
fn all_ids(policy: &Policy) -> impl Iterator<Item = &str> {
    let groups = policy.groups.iter().flat_map(|group| {
        let rules = group.ingress.iter().chain(&group.egress);
        std::iter::once(group.id.as_str()).chain(rules.map(|rule| rule.id.as_str()))
    });
    let lists = policy.prefix_lists.iter().map(|list| list.id.as_str());
    let interfaces = policy.interfaces.iter().map(|one| one.id.as_str());
    groups.chain(lists).chain(interfaces)
}

/// A file of 64 MiB has fewer entries.
fn index_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
