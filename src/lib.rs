//! `proxy`: an HTTP caching reverse proxy. RFC 9110, RFC 9111, RFC 9112.
//!
//! # The life of a request
//!
//! A front reads it into a [`message::request::Request`]. [`proxy::Proxy::lookup`] finds the stored
//! responses for its cache key, selects the one that fits (`policy::selection`, `policy::vary`) and
//! decides about it (`policy::reuse`), all without waiting; what may be reused is answered with the
//! client's conditions and ranges in mind (`policy::precondition`, `policy::range`). What has to go to
//! the origin server passes [`proxy::Proxy::join`], where requests that ask the same collapse into one,
//! and [`proxy::Proxy::forward`], which asks for a response or whether the stored one still holds
//! (`policy::validation`, `policy::forwarding`, `origin`) and decides whether the answer is stored
//! (`policy::storing`, `policy::partial`). The body grows in `recording` while those who asked for it
//! read it, each at its own pace, and is stored when its last byte has come, never before.
//!
//! # What must stay true
//!
//! - A response is stored whole, or as the part that it says it is, or not at all; and a body that was
//!   cut short never looks complete.
//! - What was made for one user is given to another only where the origin server permits it.
//! - Nothing that a client or an origin server sends can panic, hang or grow memory without bound.
//! - Policy and messages do no I/O and read no clock.
//!
//! # The rooms
//!
//! - [`message`]: what a message is. [`policy`]: what the RFCs say, as pure functions.
//! - [`store`]: where stored responses live. [`origin`]: who is asked when nothing is stored, and what
//!   it is spared.
//! - [`flight`]: collapsed requests. [`growing`], [`recording`]: a body on its way to clients and the
//!   store.
//! - [`proxy`]: the engine, where these meet. [`front`]: the server side, twice: event loops, which answer
//!   what is fresh in memory on the spot, and the plain one.
//! - [`control`]: what a running proxy can be asked, and told.
//! - [`clock`], [`stats`]: the time, and what is counted. [`vital`]: threads that must not end. [`cli`], [`config`]: what we are told.
//!
//! # Who may import whom
//!
//! Left may import right, never back: `front`, `control` > `proxy` > `recording` >
//! `flight`, `store`, `origin` > `growing` > `policy` > `message` > `clock`.
//! `stats` is open to `front`, `control`, `proxy` and `recording`; `vital` to all.

pub mod cli;
pub mod clock;
pub mod control;
pub mod front;
pub mod message;
pub mod origin;
pub mod policy;
pub mod proxy;
pub mod stats;
pub mod store;
pub mod vital;
