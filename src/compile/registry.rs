//! Stable numbers of things that come and go: never reused, the same while a thing stays.

use std::hash::Hash;

use hashbrown::HashMap;

use super::CompileError;

/// Numbers by identity.
#[derive(Clone, Debug)]
pub(super) struct Registry<K> {
    numbers: HashMap<K, u32>,
    /// The next number that was never used. `u32::MAX` is never handed out: tables mark with it.
    next: u32,
}

/// Numbers of one compilation, not yet in force.
#[derive(Debug)]
pub(super) struct Assignment<K> {
    numbers: HashMap<K, u32>,
    next: u32,
}

impl<K: Clone + Eq + Hash> Registry<K> {
    pub(super) fn new() -> Self {
        Self {
            numbers: HashMap::new(),
            next: 0,
        }
    }

    /// Begins a compilation of about so many things.
    pub(super) fn begin(&self, capacity: usize) -> Assignment<K> {
        Assignment {
            numbers: HashMap::with_capacity(capacity),
            next: self.next,
        }
    }

    /// The number of a thing in this compilation: that of the one in force, else a new one.
    pub(super) fn assign(
        &self,
        assignment: &mut Assignment<K>,
        key: &K,
    ) -> Result<Assigned, CompileError> {
        let number = match self.numbers.get(key) {
            Some(number) => *number,
            None if assignment.next == u32::MAX => return Err(CompileError::SlotsExhausted),
            None => {
                let number = assignment.next;
                assignment.next += 1;
                number
            }
        };
        Ok(match assignment.numbers.insert(key.clone(), number) {
            None => Assigned::Fresh(number),
            Some(_) => Assigned::Twice,
        })
    }

    /// Puts a compilation's numbers in force; what it did not name is forgotten.
    pub(super) fn commit(&mut self, assignment: Assignment<K>) {
        self.numbers = assignment.numbers;
        self.next = assignment.next;
    }
}

/// What became of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assigned {
    /// The number.
    Fresh(u32),
    /// The thing was named before in this compilation.
    Twice,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(registry: &mut Registry<&'static str>, keys: &[&'static str]) -> Vec<u32> {
        let mut assignment = registry.begin(keys.len());
        let numbers = keys
            .iter()
            .map(|key| match registry.assign(&mut assignment, key).unwrap() {
                Assigned::Fresh(number) => number,
                Assigned::Twice => panic!("twice"),
            })
            .collect();
        registry.commit(assignment);
        numbers
    }

    #[test]
    fn numbers_stay_and_are_never_reused() {
        let mut registry = Registry::new();
        assert_eq!(compile(&mut registry, &["a", "b", "c"]), [0, 1, 2]);
        assert_eq!(compile(&mut registry, &["c", "d", "a"]), [2, 3, 0]);
        assert_eq!(compile(&mut registry, &["b", "a"]), [4, 0]);
    }

    #[test]
    fn an_abandoned_compilation_leaves_no_trace() {
        let mut registry = Registry::new();
        compile(&mut registry, &["a"]);
        let mut abandoned = registry.begin(0);
        registry.assign(&mut abandoned, &"b").unwrap();
        drop(abandoned);
        assert_eq!(compile(&mut registry, &["c", "a"]), [1, 0]);
    }

    #[test]
    fn the_last_number_is_an_error_and_not_a_wrap() {
        let mut registry = Registry::new();
        registry.next = u32::MAX - 1;
        let mut assignment = registry.begin(0);
        assert_eq!(
            registry.assign(&mut assignment, &"a"),
            Ok(Assigned::Fresh(u32::MAX - 1))
        );
        assert_eq!(
            registry.assign(&mut assignment, &"b"),
            Err(CompileError::SlotsExhausted)
        );
    }
}
