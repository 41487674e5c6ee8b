//! Content in keys of its own, piece by piece.

use std::io;
use std::sync::Arc;

use redis::{Value, cmd};

use crate::message::distant::Distant;
use crate::policy::key::CacheKey;
use crate::store::backing::CHUNK_BYTES;
use crate::store::codec;
use crate::store::redis::scripts::{REMOVE, script};
use crate::store::redis::shared::RedisShared;
use crate::store::redis::values;

/// Pieces that one command looks for.
const PIECES_MAX: usize = 1024;

/// Content in keys of its own.
pub(super) struct RedisPieces {
    shared: Arc<RedisShared>,
    number: u64,
    /// Makes its checksums its own, even if another response should have the same number.
    salt: u64,
    length: u64,
    key: CacheKey,
    /// Where the response is; `None` while it arrives.
    field: Option<String>,
}

impl RedisPieces {
    pub(super) fn new(
        shared: &Arc<RedisShared>,
        key: &CacheKey,
        number: u64,
        length: u64,
        field: Option<String>,
    ) -> Self {
        let (shared, salt, key) = (Arc::clone(shared), salt(number, key), key.clone());
        Self { shared, number, salt, length, key, field }
    }

    /// A piece is not there, or is not what it was. The response goes at once, so that the next request does
    /// not find the same.
    fn lost(&self, what: &str) -> io::Error {
        if let Some(field) = &self.field {
            let shared = &self.shared;
            let entry = shared.entry(shared.state().generation, &self.key);
            let mut remove = script(REMOVE, &[entry]);
            remove.arg(field).arg(format!("{:016x}", self.number));
            remove.arg(shared.channel()).arg(shared.changed_message(&self.key, 0));
            // By number: another proxy may have stored a good one in the same field. If it cannot be removed, it
            // is found once more, and dropped then.
            let _ = shared.links.with(|link| link.one(&remove));
            if let Some(more) = shared.losses.due() {
                let key = self.key.redacted();
                log::warn!("store {}: {key}: {what} content; it is dropped{more}", shared.address);
            }
        }
        io::Error::new(io::ErrorKind::InvalidData, format!("{what} content"))
    }
}

/// What the checksums of a response's pieces begin with.
pub(super) fn salt(number: u64, key: &CacheKey) -> u64 {
    number.rotate_left(32) ^ u64::from(codec::checksum(number, 0, key.as_str().as_bytes()))
}

impl Distant for RedisPieces {
    fn length(&self) -> u64 {
        self.length
    }

    fn is_whole(&self) -> io::Result<bool> {
        // Redis evicts keys one by one, so a response may lose its middle. One missing piece used to cut the
        // body for every client until it expired.
        let pieces: Vec<u64> = (0..self.length.div_ceil(CHUNK_BYTES as u64)).collect();
        for some in pieces.chunks(PIECES_MAX) {
            // They are looked at as if they were read, so that none of them is evicted before the others.
            let mut touch = cmd("TOUCH");
            for piece in some {
                touch.arg(self.shared.piece(self.number, *piece));
            }
            let there = self.shared.links.with(|link| link.one(&touch));
            let there = there.map_err(|error| io::Error::other(error.0))?;
            if values::number(&there) != some.len() as u64 {
                return Err(self.lost("missing"));
            }
        }
        Ok(true)
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let (piece, skip) = (at / CHUNK_BYTES as u64, (at % CHUNK_BYTES as u64) as usize);
        let command = cmd("GET").arg(self.shared.piece(self.number, piece)).clone();
        let value = self.shared.links.with(|link| link.one(&command));
        let value = value.map_err(|error| io::Error::other(error.0))?;
        // Evicted since `is_whole`, or while it arrives not there yet, which `Spooled` rules out.
        let Value::BulkString(bytes) = value else { return Err(self.lost("missing")) };
        let bytes =
            values::checked(self.salt, piece, &bytes).ok_or_else(|| self.lost("damaged"))?;
        let rest = bytes.get(skip..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
