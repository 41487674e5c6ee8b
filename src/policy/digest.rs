//! Digests that stand for credentials where these select among variants: the same credentials have the
//! same digest in one store, and nobody can tell from it what they were.
//!
//! What makes a salt random, and who keeps it, is the store's business.

use ring::hmac;

/// Bytes of a salt.
pub const SALT_BYTES: usize = 32;
/// Bytes of a digest: enough that no two credentials have the same.
const DIGEST_BYTES: usize = 16;

/// What the digests of one store are keyed with. All proxies that share the store share its salt.
#[derive(Clone)]
pub struct Salt {
    bytes: [u8; SALT_BYTES],
    key: hmac::Key,
}

impl Salt {
    /// A salt of these bytes, which must be random.
    pub fn new(bytes: [u8; SALT_BYTES]) -> Self {
        Self { bytes, key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) }
    }

    /// The salt's bytes, for the store alone.
    pub fn bytes(&self) -> &[u8; SALT_BYTES] {
        &self.bytes
    }

    /// What stands for the value of a field: HMAC-SHA-256, cut, as text. The same value in another
    /// field has another digest.
    pub(crate) fn digest(&self, field: &str, value: &[u8]) -> Vec<u8> {
        // Keyed, because passwords and short tokens can be guessed: whoever reads the store without its
        // salt cannot try them.
        let mut context = hmac::Context::with_key(&self.key);
        context.update(field.as_bytes());
        // No field name holds this byte, so that no two pairs of name and value run together alike.
        context.update(b"\0");
        context.update(value);
        let tag = context.sign();
        format!("digest:{}", hexadecimal(&tag.as_ref()[..DIGEST_BYTES])).into_bytes()
    }
}

/// What stands for bytes that are no secret, where they take too much room: SHA-256, cut.
pub(crate) fn fingerprint(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

/// Bytes in hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).expect("half a byte");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Shows nothing of the bytes: whoever had them could guess at credentials.
impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_one_salt_one_field_and_one_value() {
        let salt = Salt::new([1; SALT_BYTES]);
        let digest = salt.digest("cookie", b"s3cret");
        assert_eq!(digest, Salt::new([1; SALT_BYTES]).digest("cookie", b"s3cret"));
        assert_eq!(digest.len(), "digest:".len() + 2 * DIGEST_BYTES);
        for other in [
            Salt::new([2; SALT_BYTES]).digest("cookie", b"s3cret"),
            salt.digest("authorization", b"s3cret"),
            salt.digest("cookie", b"s3cres"),
            salt.digest("cookie", b""),
        ] {
            assert_ne!(digest, other);
        }
        assert_eq!(format!("{salt:?}"), "Salt");
    }

    /// It is in files, so it must stay what it is: the first half of SHA-256 (FIPS 180-4, of "abc").
    #[test]
    fn a_fingerprint_is_the_same_in_every_version() {
        assert_eq!(hexadecimal(&fingerprint(b"abc")), "ba7816bf8f01cfea414140de5dae2223");
    }
}
