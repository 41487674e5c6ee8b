//! `proxy`: an HTTP caching reverse proxy. RFC 9110, RFC 9111, RFC 9112.
//!
//! # The life of a request
//!
//! 1. *Read.* A front reads a [`message::request::Request`] and answers what is not acceptable at once
//!    ([`front`], [`message::request`]).
//! 2. *Look up, select, decide.* [`proxy::Proxy::ask`] finds the stored responses for the cache key;
//!    `policy::selection` and [`policy::vary`] select the one that fits, [`policy::reuse`] decides: reuse,
//!    reuse stale, validate, forward, or refuse, always with the reason. What is reused is answered with
//!    the client's conditions and ranges in mind ([`policy::precondition`], [`policy::range`]).
//! 3. *Collapse.* Requests that ask the same become one ([`proxy::collapse`]): the first one leads, and the
//!    others follow, parked, without a thread.
//! 4. *Recall.* Behind memory there may be a store that lasts; a worker looks there first
//!    ([`proxy::Proxy::recall`]).
//! 5. *Plan and exchange.* A driver ([`proxy::BlockingDriver`]) sends the head that the engine puts together
//!    (`policy::validation`, `policy::forwarding`) to the [`origin`] server.
//! 6. *Receive.* [`proxy::Proxy::receive`] asks again, freshens, answers, or begins to store and to pass on
//!    the response ([`policy::storing`], [`policy::partial`]).
//! 7. *Answer.* The body grows (`message::growing`, [`proxy::fill`]) while clients read it, each at its
//!    own pace. It is stored when its last byte has come, never before.
//!
//! # What must stay true
//!
//! - A response is stored whole, or as the part that it says it is, or not at all; and a body that was cut
//!   short never looks complete.
//! - What was made for one user is given to another only where the origin server permits it.
//! - Nothing that a client or an origin server sends can panic, hang or grow memory without bound.
//! - What was invalidated or purged while its replacement was on its way does not come back.
//! - No lock is held while the store, the origin server or a client is waited for.
//! - Policy and messages do no I/O and read no clock.
//!
//! # The rooms
//!
//! From the bottom:
//!
//! - [`clock`]: moments, spans, and the one clock. [`vital`]: threads that must not end.
//! - [`message`]: what a message is, and HTTP/1.1 on the wire; no I/O, no caching.
//! - [`policy`]: what the RFCs say, as pure functions, a section or two a file.
//! - [`store`]: the cache, one type: memory, and behind it SQLite or Redis; what is on its way in.
//! - [`origin`]: the origin server, how it is reached, and what it is spared.
//! - [`stats`]: the counters, their last minute and hour, the newest requests, the access log; how figures are written.
//! - [`proxy`]: the engine, where all these meet: steps without I/O, and the blocking driver.
//! - [`front`]: the server side, twice: event loops, and the plain one over tiny_http.
//! - [`control`]: what a running proxy can be asked, and told, by its operator.
//! - [`cli`]: the command line: its flags, and the configuration that they make.
//! - `daemon`: a proxy's start and its orderly end; part of the program, not of this library.
//! - `commands`: what the program does besides running a proxy; part of the program, too.
//!
//! # Who may import whom
//!
//! Left may import right, never back: `main` > `commands` > `daemon` > `control`, `front` > `proxy` >
//! `store`, `origin` > `policy` > `message` > `clock`. `stats` is open to `front`, `control`, `proxy` and
//! what is left of them, `vital` to all; `cli` is seen by the program alone. `tests/tidy.rs` checks it.

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
