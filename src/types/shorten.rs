//! Makes a failing sequence of steps short, for the tests that keep failures as files.

/// Steps run while one failure is made shorter, at most.
const STEPS_MAX: usize = 20_000_000;

/// The steps without those that the failure does not need: halves, quarters, … single ones.
pub(crate) fn shortest<T: Clone>(mut steps: Vec<T>, fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut budget = STEPS_MAX;
    let mut len = steps.len().div_ceil(2);
    while len > 0 {
        let mut from = 0;
        while from < steps.len() && budget > steps.len() {
            let mut shorter = steps.clone();
            let end = (from + len).min(shorter.len());
            shorter.drain(from..end);
            budget -= shorter.len().max(1);
            match fails(&shorter) {
                true => steps = shorter,
                false => from = end,
            }
        }
        len /= 2;
    }
    steps
}

#[test]
fn what_a_failure_needs_is_left() {
    let fails = |steps: &[u32]| steps.iter().filter(|step| **step % 10 == 3).count() >= 2;
    assert_eq!(shortest((0..100).collect(), fails), [83, 93]);
    assert_eq!(shortest(vec![1, 2], |_| true), [] as [u32; 0]);
}
