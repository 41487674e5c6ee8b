//! Which exchanges a client makes, in which order: chosen by the seed, whatever the time.

use super::script::{
    After, Answer, Caching, Dies, Early, Exchange, Expectation, Expects, Framing, Leaving, Numbers,
    Range, Reading, TunnelEnd, Upload, Wants,
};

/// Around the bounds of buffers.
const SIZES: [u64; 8] = [0, 1, 1024, 16_383, 16_384, 16_385, 70 * 1024, 300 * 1024];
const LARGE: u64 = 2 * 1024 * 1024;
/// Between one exchange for what other clients ask for as well and the next.
const SHARED_EACH: u64 = 5;
/// So many targets are asked for at a time by all clients.
const SHARED_TARGETS: u64 = 4;

/// The exchanges of one client.
pub struct Plan {
    numbers: Numbers,
    seed: u64,
    client: u64,
    next: u64,
    /// Redirects of the origin server are followed.
    follows_redirects: bool,
}

impl Plan {
    pub fn new(seed: u64, client: u64, follows_redirects: bool) -> Self {
        let numbers = Numbers::of(&[seed, client]);
        Self { numbers, seed, client, next: 0, follows_redirects }
    }

    /// The next exchanges on one connection, the requests of which are sent at once.
    pub fn next_batch(&mut self, most: u64) -> Vec<Exchange> {
        let is_pipelined = self.numbers.one_in(7);
        let count = if is_pipelined { 2 + self.numbers.below(4) } else { 1 };
        (0..count.min(most)).map(|_| self.exchange(is_pipelined)).collect()
    }

    fn exchange(&mut self, is_pipelined: bool) -> Exchange {
        let number = self.next;
        self.next += 1;
        let asker = format!("{}-{}-{number}", self.seed, self.client);
        if number.is_multiple_of(SHARED_EACH) {
            return self.shared(asker, number / SHARED_EACH, is_pipelined);
        }
        let exchange = self.own(asker, is_pipelined);
        let upgrades = !is_pipelined && exchange.method == "GET" && self.numbers.one_in(12);
        if upgrades { self.upgrading(exchange) } else { exchange }
    }

    /// One for which nobody else asks.
    fn own(&mut self, asker: String, is_pipelined: bool) -> Exchange {
        let method = self.numbers.among(&["GET", "GET", "GET", "GET", "HEAD", "POST", "PUT"]);
        let mut answer = answer(&mut self.numbers);
        let is_old = !is_pipelined && self.numbers.one_in(12);
        let upload = matches!(method, "POST" | "PUT").then(|| self.upload(is_pipelined, is_old));
        if let Some(upload) = &upload {
            self.answer_to_upload(&mut answer, upload);
        }
        let redirects = 1 + self.numbers.below(3);
        if self.numbers.one_in(6) && self.follows_redirects && upload.is_none() {
            answer.redirects = redirects;
        }
        let wants = self.wants(method, &answer);
        let reading = self.reading(is_pipelined || is_cut(upload.as_ref()), &answer);
        Exchange {
            id: asker.clone(),
            asker,
            method,
            is_old,
            upload,
            upgrades: false,
            wants,
            flavor: self.numbers.below(3),
            directive: self.directive(),
            closes: !is_pipelined && self.numbers.one_in(10),
            half_closes: !is_pipelined && self.numbers.one_in(25),
            reading,
            answer,
        }
    }

    /// One of a few targets for which many clients ask at about the same time.
    fn shared(&mut self, asker: String, round: u64, is_pipelined: bool) -> Exchange {
        let which = round * SHARED_TARGETS + self.numbers.below(SHARED_TARGETS);
        let mut answer = answer(&mut Numbers::of(&[self.seed, u64::MAX, which]));
        answer.refuses_next = false;
        let method = if self.numbers.one_in(10) { "HEAD" } else { "GET" };
        Exchange {
            id: format!("{}-s-{which}", self.seed),
            asker,
            method,
            is_old: !is_pipelined && self.numbers.one_in(12),
            upload: None,
            upgrades: false,
            wants: self.wants(method, &answer),
            flavor: self.numbers.below(3),
            directive: self.directive(),
            closes: !is_pipelined && self.numbers.one_in(10),
            half_closes: !is_pipelined && self.numbers.one_in(25),
            reading: self.reading(is_pipelined, &answer),
            answer,
        }
    }

    /// The same, but it asks for another protocol. Some origin servers know none.
    fn upgrading(&mut self, exchange: Exchange) -> Exchange {
        let numbers = &mut self.numbers;
        let mut answer = Answer { redirects: 0, ..exchange.answer };
        if !numbers.one_in(4) {
            answer = Answer {
                refuses_next: answer.refuses_next,
                head_pause: answer.head_pause,
                tunnel_rounds: 1 + numbers.below(6),
                tunnel_up: numbers.among(&SIZES[1..7]),
                tunnel_down: numbers.among(&SIZES[1..7]),
                tunnel_end: numbers.among(&[
                    TunnelEnd::ClientCloses,
                    TunnelEnd::ClientHalfCloses,
                    TunnelEnd::ClientResets,
                    TunnelEnd::OriginCloses,
                    TunnelEnd::OriginResets,
                ]),
                ..Answer::default()
            };
        }
        Exchange {
            is_old: false,
            closes: false,
            half_closes: false,
            upgrades: true,
            wants: Wants::Whole,
            reading: Reading::Whole,
            directive: None,
            answer,
            ..exchange
        }
    }

    fn directive(&mut self) -> Option<&'static str> {
        let directive = self.numbers.among(&["no-store", "no-cache", "max-age=0"]);
        self.numbers.one_in(15).then_some(directive)
    }

    fn upload(&mut self, is_pipelined: bool, is_old: bool) -> Upload {
        let numbers = &mut self.numbers;
        // At least one byte: no content is not announced to the origin server as an upload.
        let size = size(numbers).max(1);
        let expects = numbers.among(&[
            Expects::Nothing,
            Expects::Nothing,
            Expects::Nothing,
            Expects::Waits,
            Expects::DoesNotWait,
        ]);
        let leaving = numbers.among(&[Leaving::Closes, Leaving::Resets, Leaving::HalfCloses]);
        let cut = (numbers.below(size), leaving);
        let upload = Upload {
            size,
            chunked: numbers.one_in(2) && !is_old,
            pieces: 1 + numbers.below(5),
            pause: numbers.below(4),
            expects: if is_old { Expects::Nothing } else { expects },
            cut: numbers.one_in(8).then_some(cut),
            looks: numbers.one_in(2),
        };
        if is_pipelined {
            let size = upload.size.min(16_385);
            return Upload { size, expects: Expects::Nothing, cut: None, looks: false, ..upload };
        }
        upload
    }

    fn answer_to_upload(&mut self, answer: &mut Answer, upload: &Upload) {
        answer.upload = upload.size;
        answer.upload_cut = upload.cut.is_some();
        let numbers = &mut self.numbers;
        let refused = numbers.among(&[401, 413, 417]);
        let expectation = match numbers.below(12) {
            0 => Expectation::Silent,
            1..4 => Expectation::Refuses,
            _ => Expectation::Continues,
        };
        if upload.expects != Expects::Nothing {
            answer.expectation = expectation;
        }
        let early = numbers.among(&[Early::ReadsOn, Early::StopsReading, Early::Closes]);
        let (is_early, at) = (numbers.one_in(5), numbers.below(upload.size + 1));
        if is_early && answer.expectation != Expectation::Refuses {
            (answer.early, answer.early_at) = (early, at.min(100_000));
        }
        if answer.early != Early::No || answer.expectation == Expectation::Refuses {
            // A client that still sends may not read a long one.
            answer.status = refused;
            answer.size = answer.size.min(1024);
            answer.dies_at = answer.dies_at.min(answer.size);
        }
    }

    fn wants(&mut self, method: &str, answer: &Answer) -> Wants {
        let numbers = &mut self.numbers;
        let (kind, has_it) = (numbers.below(6), numbers.one_in(2));
        let (first, more) = (numbers.below(answer.size + 10), numbers.below(answer.size + 10));
        let range = match numbers.below(4) {
            0 => Range { first: None, last: Some(more) },
            1 => Range { first: Some(first), last: None },
            _ => Range { first: Some(first), last: Some(first + more) },
        };
        match kind {
            0 if method == "GET" => Wants::Part(range),
            1 if matches!(method, "GET" | "HEAD") && answer.tagged => Wants::IfNoneMatch { has_it },
            _ => Wants::Whole,
        }
    }

    fn reading(&mut self, to_the_end: bool, answer: &Answer) -> Reading {
        let numbers = &mut self.numbers;
        let leaving = numbers.among(&[Leaving::Closes, Leaving::Resets]);
        let (kind, at) = (numbers.below(20), numbers.below(answer.size + 1));
        let slow = Reading::Slow((answer.size / 8).max(1), 1 + numbers.below(4));
        match kind {
            0 if !to_the_end => Reading::Cut(at, leaving),
            1 if !to_the_end => Reading::Nothing(leaving),
            2..5 => slow,
            _ => Reading::Whole,
        }
    }
}

fn is_cut(upload: Option<&Upload>) -> bool {
    upload.is_some_and(|upload| upload.cut.is_some())
}

/// Small ones are more frequent, and large ones rare.
fn size(numbers: &mut Numbers) -> u64 {
    let few = if numbers.one_in(3) { SIZES.len() } else { 6 };
    let size = numbers.among(&SIZES[..few]);
    if numbers.one_in(60) { LARGE } else { size }
}

/// What the origin server does about a request without content.
fn answer(numbers: &mut Numbers) -> Answer {
    let mut answer = Answer { size: size(numbers), ..Answer::default() };
    answer.status = numbers.among(&[200, 200, 200, 200, 200, 200, 200, 203, 404, 204]);
    answer.framing =
        numbers.among(&[Framing::Length, Framing::Length, Framing::Chunked, Framing::UntilClose]);
    answer.chunk = numbers.among(&[1000, 4096, 16_384, 65_537]);
    if numbers.one_in(4) {
        (answer.pieces, answer.pause) = (2 + numbers.below(4), 1 + numbers.below(4));
    }
    if numbers.one_in(6) {
        answer.head_pause = 1 + numbers.below(20);
    }
    if numbers.one_in(10) {
        answer.hints = 1 + numbers.below(3);
    }
    answer.stray_continue = numbers.one_in(20);
    answer.trailers = numbers.one_in(4);
    answer.coded = numbers.one_in(5);
    answer.tagged = numbers.one_in(2);
    answer.ranges = numbers.one_in(2);
    answer.varies = numbers.one_in(6);
    answer.excess = numbers.one_in(40);
    answer.refuses_next = numbers.one_in(100);
    answer.caching =
        numbers.among(&[Caching::NoStore, Caching::Fresh, Caching::Unstated, Caching::NoCache]);
    answer.after = match numbers.below(20) {
        0 => After::SaysClose,
        1 => After::Closes,
        2..4 => After::HangsUp,
        _ => After::StaysOpen,
    };
    let dies = numbers.among(&[Dies::Unanswered, Dies::InHead, Dies::InBody, Dies::InBody]);
    answer.reset = numbers.one_in(2);
    answer.once = numbers.one_in(2);
    answer.dies_at = numbers.below(answer.size.max(1));
    if numbers.one_in(10) {
        answer.dies = dies;
    }
    if answer.status == 204 {
        (answer.size, answer.framing) = (0, Framing::Length);
    }
    if answer.size == 0 && answer.dies == Dies::InBody {
        answer.dies = Dies::InHead;
    }
    // An end of the connection that is no reset would be the end of such content.
    answer.reset |= answer.framing == Framing::UntilClose && answer.dies == Dies::InBody;
    answer
}
