//! Stable numbers of things that come and go: the same while a thing stays, and given to another
//! thing only after they were released.

use std::hash::Hash;

use hashbrown::HashMap;

use crate::types::Generation;

/// Numbers by identity.
///
/// A change takes the numbers of what leaves, gives numbers to what comes, and ends with
/// [`Registry::commit`] or [`Registry::abandon`].
#[derive(Clone, Debug)]
pub(super) struct Registry<K> {
    numbers: HashMap<K, u32>,
    /// The next number that was never used, below `limit`.
    next: u32,
    limit: u32,
    /// Released ones.
    free: Vec<u32>,
    /// Those that nothing has, but that somebody may still hold, by the generation that was the
    /// first without the thing; in order.
    left: Vec<(Generation, u32)>,
    /// Things of the change under way that leave, unless they come again.
    leaving: HashMap<K, u32>,
    /// Things of the change under way that came, in order.
    came: Vec<(K, u32, Origin)>,
}

/// Where a number was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The same thing had it.
    Same,
    Released,
    Unused,
}

/// Why there is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoNumber {
    /// The thing has one already.
    Twice,
    /// All are in use, or not released.
    Exhausted,
}

impl<K: Clone + Eq + Hash> Registry<K> {
    /// Numbers below `limit`, which is at most `u32::MAX`: tables mark with that.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            numbers: HashMap::new(),
            next: 0,
            limit,
            free: Vec::new(),
            left: Vec::new(),
            leaving: HashMap::new(),
            came: Vec::new(),
        }
    }

    /// The number of a thing.
    pub(super) fn number(&self, key: &K) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    /// How many things have a number.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// A thing leaves, unless it is given its number again.
    pub(super) fn take(&mut self, key: &K) {
        if let Some((key, number)) = self.numbers.remove_entry(key) {
            self.leaving.insert(key, number);
        }
    }

    /// Everything leaves, unless it is given its number again.
    pub(super) fn take_all(&mut self) {
        self.leaving.extend(std::mem::take(&mut self.numbers));
    }

    /// A thing comes: it has the number that it had, or a new one.
    pub(super) fn give(&mut self, key: &K) -> Result<u32, NoNumber> {
        if self.numbers.contains_key(key) {
            return Err(NoNumber::Twice);
        }
        let (number, origin) = if let Some(number) = self.leaving.remove(key) {
            (number, Origin::Same)
        } else if let Some(number) = self.free.pop() {
            (number, Origin::Released)
        } else if self.next < self.limit {
            self.next += 1;
            (self.next - 1, Origin::Unused)
        } else {
            return Err(NoNumber::Exhausted);
        };
        self.numbers.insert(key.clone(), number);
        self.came.push((key.clone(), number, origin));
        Ok(number)
    }

    /// How many numbers left the policy and are not released.
    pub(super) fn left_count(&self) -> usize {
        self.left.len()
    }

    /// The lowest number that nothing ever had.
    pub(super) fn never_used(&self) -> u32 {
        self.next
    }

    /// Numbers of what leaves in the change under way.
    pub(super) fn leaving(&self) -> impl Iterator<Item = u32> {
        self.leaving.values().copied()
    }

    /// Puts the change in force, in this generation.
    pub(super) fn commit(&mut self, generation: Generation) {
        self.came.clear();
        let left = self.leaving.drain().map(|(_, number)| (generation, number));
        self.left.extend(left);
    }

    /// Takes the change back.
    pub(super) fn abandon(&mut self) {
        while let Some((key, number, origin)) = self.came.pop() {
            self.numbers.remove(&key);
            match origin {
                Origin::Same => {
                    self.leaving.insert(key, number);
                }
                Origin::Released => self.free.push(number),
                Origin::Unused => self.next -= 1,
            }
        }
        self.numbers.extend(self.leaving.drain());
    }

    /// Numbers that left the policy in this generation or an earlier one, and are not released.
    pub(super) fn left(&self, generation: Generation) -> impl Iterator<Item = u32> {
        let by_then = self
            .left
            .iter()
            .filter(move |(left, _)| *left <= generation);
        by_then.map(|(_, number)| *number)
    }

    /// Nobody holds these numbers any more: others may have them. Numbers that did not leave, or
    /// were released before, are passed over.
    pub(super) fn release(&mut self, numbers: impl Iterator<Item = u32>) {
        let numbers: hashbrown::HashSet<u32> = numbers.collect();
        let free = &mut self.free;
        self.left.retain(|(_, number)| {
            let released = numbers.contains(number);
            if released {
                free.push(*number);
            }
            !released
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(
        registry: &mut Registry<&'static str>,
        generation: u64,
        keys: &[&'static str],
    ) -> Vec<u32> {
        registry.take_all();
        let numbers = keys.iter().map(|key| registry.give(key).unwrap()).collect();
        registry.commit(Generation(generation));
        numbers
    }

    fn left(registry: &Registry<&'static str>, generation: u64) -> Vec<u32> {
        registry.left(Generation(generation)).collect()
    }

    #[test]
    fn numbers_stay_and_are_not_reused_until_they_are_released() {
        let mut registry = Registry::new(u32::MAX);
        assert_eq!(change(&mut registry, 1, &["a", "b", "c"]), [0, 1, 2]);
        assert_eq!(change(&mut registry, 2, &["c", "d", "a"]), [2, 3, 0]);
        assert_eq!(change(&mut registry, 3, &["b", "a"]), [4, 0]);
        assert!(left(&registry, 1).is_empty());
        assert_eq!(left(&registry, 2), [1]);
        registry.release([1, 0, 77].into_iter());
        let mut rest = left(&registry, 9);
        rest.sort_unstable();
        assert_eq!(rest, [2, 3]);
        // The number in use was not released, though it was named.
        assert_eq!(
            change(&mut registry, 4, &["a", "b", "x", "y"]),
            [0, 4, 1, 5]
        );
        // And none twice.
        registry.release([1].into_iter());
        assert_eq!(
            change(&mut registry, 5, &["a", "b", "x", "y", "z"]),
            [0, 4, 1, 5, 6]
        );
    }

    #[test]
    fn an_abandoned_change_leaves_no_trace() {
        let mut registry = Registry::new(u32::MAX);
        change(&mut registry, 1, &["a", "b"]);
        change(&mut registry, 2, &["a"]);
        registry.release([1].into_iter());
        registry.take_all();
        for key in ["b", "c", "a"] {
            registry.give(&key).unwrap();
        }
        assert_eq!(registry.give(&"c"), Err(NoNumber::Twice));
        registry.abandon();
        assert_eq!(change(&mut registry, 3, &["c", "a", "d"]), [1, 0, 2]);
    }

    #[test]
    fn the_last_number_is_an_error_and_not_a_wrap() {
        let mut registry = Registry::new(2);
        assert_eq!(registry.give(&"a"), Ok(0));
        assert_eq!(registry.give(&"b"), Ok(1));
        assert_eq!(registry.give(&"c"), Err(NoNumber::Exhausted));
    }
}
