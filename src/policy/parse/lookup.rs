//! Names of a policy that was read, found as they are in a document.

use std::collections::HashMap;

/// Names of one kind by their index, found ignoring case.
#[derive(Clone, Debug, Default)]
pub(in crate::policy) struct PolicyNames {
    names: Vec<Box<str>>,
    found: HashMap<Box<str>, u32>,
}

impl PolicyNames {
    /// Names in the order of their indexes.
    pub(in crate::policy) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<Box<str>> = names.map(Into::into).collect();
        let lower = names.iter().map(|name| name.to_ascii_lowercase().into());
        Self {
            found: lower.zip(0..).collect(),
            names,
        }
    }

    /// The index of a name that is in lower case.
    pub(in crate::policy) fn find(&self, lower_name: &str) -> Option<u32> {
        self.found.get(lower_name).copied()
    }

    /// The name at an index; empty where there is none.
    pub(in crate::policy) fn at(&self, index: u32) -> &str {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.names.get(index).map_or("", |name| name)
    }

    /// How many there are.
    pub(in crate::policy) fn len(&self) -> u32 {
        // A policy has far fewer.
        u32::try_from(self.names.len()).unwrap_or(u32::MAX)
    }

    /// All names.
    pub(in crate::policy) fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        self.names.iter().map(|name| &**name)
    }
}
