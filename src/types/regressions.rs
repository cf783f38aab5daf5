//! Failures of the random tests: made short, kept as text files of tests/regressions, and run again
//! from there.

use std::any::Any;
use std::fmt::Display;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::str::FromStr;

/// Steps run while one failure is made shorter, at most.
const STEPS_MAX: usize = 20_000_000;

/// What happened in a random test, as text that can be read again.
pub(crate) trait Regression: Display + FromStr<Err = String> {
    /// Where in tests/regressions those of its kind are.
    const FOLDER: &str;
    /// One thing that happened.
    type Step: Clone;

    fn steps(&self) -> &[Self::Step];

    /// The same with these steps instead.
    fn with(&self, steps: &[Self::Step]) -> Self;

    /// What happened happens again, as far as it can be told; panics where that fails.
    fn replay(&self);

    /// Keeps what fails, made short, where the next run of the tests finds it; goes on failing.
    #[expect(clippy::print_stderr, reason = "a failure names its file")]
    fn keep(&self, seed: u64, failure: Box<dyn Any + Send>) -> ! {
        // Many runs of it fail from here on; once is enough to say why.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let steps = shortest(self.steps().to_vec(), |steps| {
            panic::catch_unwind(AssertUnwindSafe(|| self.with(steps).replay())).is_err()
        });
        panic::set_hook(hook);
        let folder = Self::folder();
        let path = folder.join(format!("seed-{seed}.txt"));
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(&path, self.with(&steps).to_string()).unwrap();
        eprintln!("kept as {}; SEED={seed} runs it all", path.display());
        panic::resume_unwind(failure)
    }

    /// Replays all that were kept, in order of their names; so many there are at least.
    #[expect(clippy::print_stderr, reason = "a failure names its file")]
    fn replay_kept(count_min: usize) {
        let files = std::fs::read_dir(Self::folder()).unwrap();
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() >= count_min, "the files are gone");
        for path in paths {
            eprintln!("{}", path.display());
            let text = std::fs::read_to_string(&path).unwrap();
            let kept: Self = text.parse().unwrap_or_else(|line| panic!("{line}"));
            kept.replay();
        }
    }

    fn folder() -> PathBuf {
        let all = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
        all.join(Self::FOLDER)
    }
}

/// The steps without those that the failure does not need: halves, quarters, … single ones.
fn shortest<T: Clone>(mut steps: Vec<T>, fails: impl Fn(&[T]) -> bool) -> Vec<T> {
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
