//! What a comparison may cost. A hostile policy can make the exact answer as large as the product
//! of its rules and addresses; past a limit the comparison says so and gives no answer, since part
//! of one would look like all of it.

/// Most ranges of addresses that one comparison looks at: a few seconds of work.
const WORK_MAX: u64 = 1 << 28;
/// Most ranges and prefixes that the differences have: about 200 MB at most.
const KEPT_MAX: u64 = 1 << 22;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    /// The answer would take too long.
    #[error(
        "the policies differ in too complex a way to say exactly how: comparing them takes more \
         than {limit} steps"
    )]
    TooMuchWork {
        /// The most steps.
        limit: u64,
    },
    /// The answer would be too large.
    #[error(
        "the policies differ in too complex a way to say exactly how: the answer has more than \
         {limit} address ranges"
    )]
    TooManyRanges {
        /// The most ranges.
        limit: u64,
    },
}

/// What is left to spend.
#[derive(Debug)]
pub(super) struct Budget {
    work: u64,
    work_max: u64,
    kept: u64,
    kept_max: u64,
}

impl Budget {
    /// The whole of it.
    pub(super) fn new() -> Self {
        Self::with(WORK_MAX, KEPT_MAX)
    }

    /// A budget of this size.
    pub(super) fn with(work_max: u64, kept_max: u64) -> Self {
        Self {
            work: work_max,
            work_max,
            kept: kept_max,
            kept_max,
        }
    }

    /// Takes the cost of looking at so many ranges.
    pub(super) fn work(&mut self, ranges: usize) -> Result<(), DiffError> {
        let left = self.work.checked_sub(ranges as u64);
        self.work = left.ok_or(DiffError::TooMuchWork {
            limit: self.work_max,
        })?;
        Ok(())
    }

    /// Takes the cost of keeping so many ranges for the answer.
    pub(super) fn keep(&mut self, ranges: usize) -> Result<(), DiffError> {
        let left = self.kept.checked_sub(ranges as u64);
        self.kept = left.ok_or(DiffError::TooManyRanges {
            limit: self.kept_max,
        })?;
        Ok(())
    }
}
