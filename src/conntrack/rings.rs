//! Circular lists through numbers of fixed range: each number is in one list at most. Adding at
//! the end, taking out and finding the first are a few words each, whatever the lists hold.
//!
//! All zero is empty, so that memory that nobody has touched is lists of nothing.

use crate::cpu::untouched;

/// A list: the number that is longest in it, plus one; 0: it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ring(u32);

impl Ring {
    /// The number that is longest in it.
    pub(super) fn first(self) -> Option<u32> {
        self.0.checked_sub(1)
    }
}

/// The links of all lists.
#[derive(Debug)]
pub(super) struct Rings {
    links: Vec<Link>,
}

/// The numbers before and after one in its list, plus one; 0: it is in none.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    before: u32,
    after: u32,
}

impl Rings {
    /// Lists of the numbers below `count`.
    pub(super) fn new(count: usize) -> Self {
        Self {
            links: untouched(count),
        }
    }

    /// Adds a number, which is in no list, as the last.
    pub(super) fn push(&mut self, list: &mut Ring, number: u32) {
        let name = number.saturating_add(1);
        let Some(Link { before: last, .. }) = self.link(list.0) else {
            self.change(name, |link| {
                *link = Link {
                    before: name,
                    after: name,
                };
            });
            list.0 = name;
            return;
        };
        let first = list.0;
        self.change(name, |link| {
            *link = Link {
                before: last,
                after: first,
            };
        });
        self.change(last, |link| link.after = name);
        self.change(first, |link| link.before = name);
    }

    /// Takes a number out of the list, if it is in one; whether it was.
    pub(super) fn remove(&mut self, list: &mut Ring, number: u32) -> bool {
        let name = number.saturating_add(1);
        let Some(Link { before, after }) = self.link(name).filter(|link| link.after != 0) else {
            return false;
        };
        self.change(name, |link| *link = Link::default());
        if after == name {
            list.0 = 0;
            return true;
        }
        self.change(before, |link| link.after = after);
        self.change(after, |link| link.before = before);
        if list.0 == name {
            list.0 = after;
        }
        true
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<Link>().saturating_mul(self.links.capacity())
    }

    fn link(&self, name: u32) -> Option<Link> {
        let number = name.checked_sub(1)?;
        self.links.get(number as usize).copied()
    }

    fn change(&mut self, name: u32, change: impl FnOnce(&mut Link)) {
        let number = name.checked_sub(1);
        if let Some(link) = number.and_then(|number| self.links.get_mut(number as usize)) {
            change(link);
        }
    }
}

#[cfg(test)]
impl Rings {
    /// The numbers of a list, the first one first.
    pub(super) fn all(&self, list: Ring) -> Vec<u32> {
        let mut numbers = Vec::new();
        let mut at = list.0;
        while at != 0 && (numbers.is_empty() || at != list.0) {
            numbers.push(at - 1);
            at = self.links[at as usize - 1].after;
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_queues_that_can_be_left() {
        let mut rings = Rings::new(40);
        let mut lists = [Ring::default(); 3];
        let mut plain = [const { Vec::new() }; 3];
        let mut state = 7u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let number = u32::try_from((state >> 33) % 40).unwrap();
            let list = (state >> 20) as usize % 3;
            let held = plain.iter().position(|list| list.contains(&number));
            match held {
                Some(list) => {
                    assert!(rings.remove(&mut lists[list], number));
                    plain[list].retain(|other| *other != number);
                }
                None => {
                    assert!(!rings.remove(&mut lists[list], number));
                    rings.push(&mut lists[list], number);
                    plain[list].push(number);
                }
            }
            assert_eq!(lists.map(|list| rings.all(list)), plain);
        }
    }
}
