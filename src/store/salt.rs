//! The salt of a store: random, kept where the stored responses are kept.

use ring::rand::{SecureRandom, SystemRandom};

#[cfg(feature = "redis")]
use crate::policy::digest::hexadecimal;
use crate::policy::digest::{SALT_BYTES, Salt};

/// A new salt.
pub fn random() -> Salt {
    let mut bytes = [0; SALT_BYTES];
    SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
    Salt::new(bytes)
}

/// A salt as text, for a store that keeps text.
#[cfg(feature = "redis")]
pub(super) fn to_text(salt: &Salt) -> String {
    hexadecimal(salt.bytes())
}

/// The salt that is kept as this text; `None` if it is none.
#[cfg(feature = "redis")]
pub(super) fn from_text(text: &[u8]) -> Option<Salt> {
    // Hexadecimal is one byte a letter: a longer letter would make a slice below end within it.
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 2 * SALT_BYTES)?;
    let mut bytes = [0; SALT_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(Salt::new(bytes))
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use super::*;

    #[test]
    fn a_salt_comes_back_from_its_text() {
        let salt = random();
        let back = from_text(to_text(&salt).as_bytes()).expect("a salt");
        assert_eq!(back.bytes(), salt.bytes());
        assert_ne!(random().bytes(), salt.bytes());
        for wrong in ["", "00", &"x".repeat(2 * SALT_BYTES), &"é".repeat(SALT_BYTES)] {
            assert!(from_text(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
