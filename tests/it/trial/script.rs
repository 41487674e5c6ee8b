//! What happens in each exchange of a trial: what the client asks and how, and what the origin server does
//! about it, which the request's target says. All of it follows from the seed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Numbers that follow from a seed (splitmix64).
pub struct Numbers(u64);

impl Numbers {
    pub fn of(seeds: &[u64]) -> Self {
        let mut all = Self(0);
        for seed in seeds {
            all.0 ^= *seed;
            all.0 = all.next();
        }
        all
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn among<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Framing {
    #[default]
    Length,
    Chunked,
    UntilClose,
}

/// An answer that comes before the request's content has been read.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Early {
    #[default]
    No,
    /// The content is read to its end all the same.
    ReadsOn,
    /// No more of it is read; the connection stays open for a while.
    StopsReading,
    /// The connection ends with the answer.
    Closes,
}

/// What an origin server does that is asked whether to send the content (`Expect: 100-continue`).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Expectation {
    #[default]
    Continues,
    /// It says nothing, and waits for the content.
    Silent,
    /// It answers without it.
    Refuses,
}

/// What becomes of the origin server's connection after a whole answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum After {
    #[default]
    StaysOpen,
    /// `Connection: close`, and so it is.
    SaysClose,
    /// It is closed, and nothing has said so.
    Closes,
    /// It is closed when the next request is on its way.
    HangsUp,
}

/// Who ends a tunnel, behind its last round.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum TunnelEnd {
    #[default]
    ClientCloses,
    /// It reads on, and the origin server closes.
    ClientHalfCloses,
    ClientResets,
    OriginCloses,
    OriginResets,
}

/// How the origin server's connection dies.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Dies {
    #[default]
    No,
    /// When the request has come.
    Unanswered,
    InHead,
    /// Behind `Answer::dies_at` bytes.
    InBody,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Caching {
    #[default]
    NoStore,
    Fresh,
    Unstated,
    /// Stored, and asked about each time.
    NoCache,
}

/// What the origin server does. Written into the target, so that it need know no more.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "each is one property of an answer")]
pub struct Answer {
    pub status: u16,
    pub framing: Framing,
    pub size: u64,
    /// So many pieces, and so many milliseconds before each.
    pub pieces: u64,
    pub pause: u64,
    /// Milliseconds before the head.
    pub head_pause: u64,
    /// The largest chunk.
    pub chunk: u64,
    /// So many 103 before the answer.
    pub hints: u64,
    /// A 100 that nobody has asked for.
    pub stray_continue: bool,
    pub expectation: Expectation,
    pub early: Early,
    /// Bytes of the content that are read before an early answer.
    pub early_at: u64,
    pub after: After,
    pub dies: Dies,
    pub dies_at: u64,
    /// By a reset.
    pub reset: bool,
    /// Only the first time that it is asked for.
    pub once: bool,
    /// The next connection is closed when it is accepted.
    pub refuses_next: bool,
    pub caching: Caching,
    /// By the field `X-Flavor`.
    pub varies: bool,
    /// It has an entity tag, by which conditions are answered.
    pub tagged: bool,
    /// Ranges are obeyed.
    pub ranges: bool,
    pub trailers: bool,
    /// Behind the answer comes another one, which nobody has asked for.
    pub excess: bool,
    /// It redirects so many times before it answers.
    pub redirects: u64,
    /// It says that the content is coded.
    pub coded: bool,
    /// How much content the request has; none if 0.
    pub upload: u64,
    /// The client does not send all of it.
    pub upload_cut: bool,
    /// It goes over to another protocol, if it is asked to. In each of so many rounds the client sends so many bytes,
    /// and the origin server.
    pub tunnel_rounds: u64,
    pub tunnel_up: u64,
    pub tunnel_down: u64,
    pub tunnel_end: TunnelEnd,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            status: 200,
            framing: Framing::Length,
            size: 0,
            pieces: 1,
            pause: 0,
            head_pause: 0,
            chunk: 10_000,
            hints: 0,
            stray_continue: false,
            expectation: Expectation::Continues,
            early: Early::No,
            early_at: 0,
            after: After::StaysOpen,
            dies: Dies::No,
            dies_at: 0,
            reset: false,
            once: false,
            refuses_next: false,
            caching: Caching::NoStore,
            varies: false,
            tagged: false,
            ranges: false,
            trailers: false,
            excess: false,
            redirects: 0,
            coded: false,
            upload: 0,
            upload_cut: false,
            tunnel_rounds: 0,
            tunnel_up: 0,
            tunnel_down: 0,
            tunnel_end: TunnelEnd::ClientCloses,
        }
    }
}

impl Answer {
    fn values(&self) -> Map<String, Value> {
        match serde_json::to_value(self).expect("plain data") {
            Value::Object(values) => values,
            _ => unreachable!("a struct with fields"),
        }
    }

    /// What is not as usual, as a query.
    pub fn query(&self) -> String {
        let (mut values, usual) = (self.values(), Self::default().values());
        values.retain(|name, value| usual[name] != *value);
        let text = |value: Value| value.as_str().map_or(value.to_string(), str::to_string);
        let pairs = values.into_iter().map(|(name, value)| format!("{name}={}", text(value)));
        pairs.collect::<Vec<_>>().join("&")
    }

    pub fn read(query: &str) -> Result<Self, String> {
        let mut values = Map::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, text) = pair.split_once('=').ok_or("a name without a value")?;
            let value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
            values.insert(name.to_string(), value);
        }
        serde_json::from_value(Value::Object(values)).map_err(|error| error.to_string())
    }

    /// Does it die, for whatever reason, so that a client may get no whole answer?
    pub fn may_fail(&self) -> bool {
        // A connection that is closed with content unread is reset, and the answer may be lost with it, or its end
        // if that is the connection's.
        self.dies != Dies::No || matches!(self.early, Early::Closes | Early::StopsReading)
    }

    pub fn tag(&self, id: &str, flavor: &str) -> Option<String> {
        self.tagged.then(|| format!("\"{id}{flavor}\""))
    }
}

/// The name of an answer's content.
pub fn answer_name(id: &str, flavor: &str) -> String {
    format!("{id} answer {flavor}")
}

/// The name of an upload.
pub fn upload_name(id: &str) -> String {
    format!("{id} upload")
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leaving {
    Closes,
    Resets,
    /// Says that it sends no more, and reads on.
    HalfCloses,
}

/// What the client says about content that it does not send at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expects {
    Nothing,
    /// `Expect: 100-continue`, and it waits.
    Waits,
    /// The same, and it does not wait.
    DoesNotWait,
}

#[derive(Clone, Debug)]
pub struct Upload {
    pub size: u64,
    pub chunked: bool,
    pub pieces: u64,
    pub pause: u64,
    pub expects: Expects,
    /// Where the client leaves.
    pub cut: Option<(u64, Leaving)>,
    /// It looks for an answer between two pieces, and stops when there is one.
    pub looks: bool,
}

/// A range, inclusive: from here to there, to the end, or so many of the last bytes.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub first: Option<u64>,
    pub last: Option<u64>,
}

impl Range {
    pub fn field(self) -> String {
        let text = |place: Option<u64>| place.map_or(String::new(), |place| place.to_string());
        format!("bytes={}-{}", text(self.first), text(self.last))
    }

    pub fn read(field: &str) -> Option<Self> {
        let (first, last) = field.strip_prefix("bytes=")?.split_once('-')?;
        Some(Self { first: first.parse().ok(), last: last.parse().ok() })
    }

    /// Its first byte and its length in content of this size; `None` if there is no such byte.
    pub fn of(self, size: u64) -> Option<(u64, u64)> {
        let (first, last) = match (self.first, self.last) {
            (Some(first), last) => (first, last.unwrap_or(u64::MAX)),
            (None, Some(count)) => (size.saturating_sub(count), if count == 0 { 0 } else { size }),
            (None, None) => return None,
        };
        let end = last.saturating_add(1).min(size);
        (first < end && !(self.first.is_none() && self.last == Some(0)))
            .then(|| (first, end - first))
    }
}

/// What the client asks for.
#[derive(Clone, Copy, Debug)]
pub enum Wants {
    Whole,
    Part(Range),
    /// What it has not: it says that it has this or something else.
    IfNoneMatch {
        has_it: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Reading {
    Whole,
    /// With a pause of so many milliseconds behind each so many bytes.
    Slow(u64, u64),
    /// The client leaves behind so many bytes.
    Cut(u64, Leaving),
    /// It leaves when it has sent its request.
    Nothing(Leaving),
}

/// One exchange.
#[allow(clippy::struct_excessive_bools, reason = "each is one thing that a client may do")]
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Of what is asked for: several clients may ask for the same.
    pub id: String,
    /// Of the exchange.
    pub asker: String,
    pub method: &'static str,
    pub is_old: bool,
    pub upload: Option<Upload>,
    /// It asks the origin server to go over to another protocol.
    pub upgrades: bool,
    pub wants: Wants,
    pub flavor: u64,
    pub directive: Option<&'static str>,
    /// The client ends its connection behind it.
    pub closes: bool,
    /// It closes its side when it has sent its request, and reads on.
    pub half_closes: bool,
    pub reading: Reading,
    pub answer: Answer,
}

impl Exchange {
    pub fn target(&self) -> String {
        format!("/x/{}?{}", self.id, self.answer.query())
    }

    pub fn is_shared(&self) -> bool {
        self.id != self.asker
    }

    /// What the answer depends on beside its target.
    pub fn selecting(&self) -> String {
        if self.answer.varies { self.flavor.to_string() } else { String::new() }
    }
}
