//! The exchanges of an event loop with the origin server: nothing here waits. RFC 9110 §7, RFC 9112 §9.
//!
//! - `exchanges.rs` has all exchanges of one loop and gives each its turns: a connection is found or made, the
//!   request goes out, the response comes in.
//! - `protocol.rs` reads responses and sees no socket; requests are written by `../outgoing.rs`.
//! - `stream.rs` is a connection with or without TLS, `dial.rs` says which address is tried next, `idle.rs` keeps
//!   connections for later requests.
//! - `piping.rs` moves large content into a pipe, out of which the client's loop sends it.
//!
//! What comes of an exchange goes to its [`Consumer`], in the same call.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use crate::message::fields::Fields;
use crate::message::pipe::BodyPipe;
use crate::origin::{OriginError, OriginHead, RequestHead};

mod dial;
mod exchange;
pub mod exchanges;
mod idle;
mod piping;
pub mod protocol;
mod slots;
mod stream;

pub use dial::is_out_of_descriptors;
pub use exchanges::{EventedSettings, Exchanges, NewExchange, OriginReadiness};

/// An exchange, as others know it. Messages about one that is over are dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExchangeKey {
    slot: usize,
    /// No other exchange of the loop has the same.
    number: u64,
}

/// Tells the loop, from any thread, that an exchange may go on; it must not block.
pub type WakeExchange = Arc<dyn Fn(ExchangeKey) + Send + Sync>;

/// Whom an exchange is for: gives the content of the request, and takes what comes of the response. Nothing of it
/// waits. Dropped, nobody wants the exchange any more.
pub trait Consumer {
    /// The exchange begins; by the key it can be woken.
    fn begun(&mut self, key: ExchangeKey, wake: &WakeExchange);

    /// Adds content of the request to `out`, at most `most` bytes. An error is the client's.
    fn take_content(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<ContentTaken>;

    /// No more of the content of the request is asked for.
    fn drop_content(&mut self);

    /// An interim response has come, 102 to 199 but not 101.
    fn interim(&mut self, status: StatusCode, fields: Fields);

    /// The head of the response has come.
    fn head(&mut self, head: OriginHead) -> Wish;

    /// The origin server has gone over to another protocol, with these fields: from now on the content of either side
    /// is whatever it sends, until one of them ends.
    fn switched(&mut self, fields: Fields) -> Wish;

    /// May content be read, at `now`?
    fn space(&mut self, now: Instant) -> Space;

    /// Does content that has come wait for space elsewhere? Then [`Consumer::space`] is asked although nothing more
    /// has come.
    fn keeps_back(&self) -> bool {
        false
    }

    /// Content has come, which is not the last.
    fn piece(&mut self, piece: &[u8]) -> Wish;

    /// May content go through a pipe, which is empty, instead of being read?
    fn may_pipe(&self) -> bool {
        false
    }

    /// So many bytes of content, which are not the last, are in this pipe.
    fn piped(&mut self, _pipe: &Arc<BodyPipe>, _count: usize) -> Wish {
        unreachable!("nobody permits a pipe")
    }

    /// Fields have come behind the content, of a request that has said that they are welcome: at once before
    /// [`Consumer::last`].
    fn trailers(&mut self, fields: Fields);

    /// The rest of the content has come, which may be nothing, and its end is proven. The connection is free.
    fn last(&mut self, piece: &[u8]) -> Wish;

    /// The exchange has failed: before the head, or within the content.
    fn fail(&mut self, error: OriginError) -> Wish;

    /// Does anybody still want the response? Asked when the exchange is woken.
    fn is_wanted(&self) -> bool;

    /// Nobody did, and the exchange is over. `is_sent` says that the origin server may have begun to carry the
    /// request out.
    fn abandoned(self, is_sent: bool);
}

/// What has been taken of the content of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ContentTaken {
    /// Some.
    Bytes,
    /// There is none at the moment: the exchange is woken when there is.
    NotYet,
    /// There is no more.
    End,
}

/// What a consumer wants.
pub enum Wish {
    /// To go on.
    GoOn,
    /// To ask for something else, without content, in place of this.
    Ask(Box<RequestHead>),
    /// Nothing more.
    Over,
}

/// Is there space for content?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Space {
    /// For so many bytes, at least one.
    Bytes(usize),
    /// None: the exchange is woken when there is, and is to ask again at this moment.
    None(Instant),
    /// Nobody wants the rest.
    Unwanted,
}
