//! Derived ids: the same names and contents always give the same id, whatever else changes.

use sha2::{Digest, Sha256};

/// Hexadecimal digits of an id after its prefix, as AWS has them. 68 bits: among a million rules
/// two are alike once in half a billion policies.
const DIGITS: usize = 17;

/// An id of the prefix for what the parts name. Each part is hashed with its length, so that no
/// two lists of parts look alike.
pub(super) fn derive(prefix: &str, parts: &[&str]) -> Box<str> {
    let mut hash = Sha256::new();
    for part in std::iter::once(&prefix).chain(parts) {
        // A part is a name or a rule, far below 4 Gi bytes.
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut id = String::with_capacity(prefix.len() + DIGITS);
    id.push_str(prefix);
    let digest = hash.finalize();
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    id.extend(
        digits
            .take(DIGITS)
            .filter_map(|digit| char::from_digit(digit.into(), 16)),
    );
    id.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_prefix_and_seventeen_digits_and_never_changes() {
        // Ids are in users' files and logs: this value may never change.
        assert_eq!(&*derive("sg-", &["web"]), "sg-085f72c110b4804a2");
    }

    #[test]
    fn parts_are_told_apart() {
        assert_ne!(derive("sgr-", &["ab", "c"]), derive("sgr-", &["a", "bc"]));
        assert_ne!(derive("sg-", &["a"]), derive("pl-", &["a"]));
    }
}
