//! A body that grows: what its readers see of it, and whom it waits for.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::message::body::{Growing, Grown};

const WINDOW_BYTES: usize = 1000;

/// For how long a thread of these tests waits for a reader that stalls.
const STALL_MAX: Duration = Duration::from_millis(50);

fn writer(length: Option<u64>) -> Writer {
    let limits = GrowingLimits { window_bytes: WINDOW_BYTES, stall_max: STALL_MAX };
    Writer::within(length, Buffer::default(), limits).0
}

/// A body that is not stored, and its reader.
fn passing(window_bytes: usize) -> (Writer, Reader) {
    Writer::passing_within(None, GrowingLimits { window_bytes, stall_max: STALL_MAX })
}

/// How many bytes are in the window.
fn window_length(writer: &Writer) -> usize {
    match &writer.shared().lock().bytes {
        GrowingBytes::Window { bytes, .. } => bytes.len(),
        _ => panic!("the body is kept"),
    }
}

fn pass_on(writer: &mut Writer, bytes: &[u8]) -> bool {
    writer.wait_for_space();
    writer.push(bytes)
}

fn keep(writer: &mut Writer, bytes: &[u8]) {
    let grow = |buffer: &mut Buffer, more: usize| {
        let capacity = buffer.capacity_for(more, usize::MAX);
        buffer.grow(capacity)
    };
    assert!(writer.keep(bytes, false, grow));
}

/// What a reader has read, and why it stopped.
fn read(reader: &mut Reader) -> (Vec<u8>, Result<Grown, io::ErrorKind>) {
    let (mut all, mut piece) = (Vec::new(), [0; 1000]);
    loop {
        match reader.peek(&mut piece) {
            Ok(Grown::Bytes(count)) => {
                all.extend_from_slice(&piece[..count]);
                reader.consume(count);
            }
            other => return (all, other.map_err(|error| error.kind())),
        }
    }
}

#[test]
fn each_reads_at_its_own_pace() {
    let mut writer = writer(Some(6));
    keep(&mut writer, b"abc");
    let mut early = writer.shared().reader().expect("a reader");
    assert_eq!(read(&mut early), (b"abc".to_vec(), Ok(Grown::NotYet)));
    let grow = |buffer: &mut Buffer, more: usize| buffer.grow(buffer.len() + more);
    assert!(writer.keep(b"def", true, grow));
    assert_eq!(read(&mut early).0, b"", "the last bytes come when it is stored");
    let mut late = writer.shared().reader().expect("a reader");
    assert_eq!(writer.whole().as_deref(), Some(&b"abcdef"[..]));
    writer.finish();
    assert_eq!(read(&mut early), (b"def".to_vec(), Ok(Grown::End)));
    assert_eq!(read(&mut late), (b"abcdef".to_vec(), Ok(Grown::End)));
}

/// However little is kept: the reader that a body is born with has all of it.
#[test]
fn the_first_reader_misses_nothing() {
    for way in ["kept", "let go of", "passing"] {
        let (mut writer, mut reader) = match way {
            "passing" => Writer::passing(None),
            _ => Writer::new(None, Buffer::default()),
        };
        match way {
            "kept" => keep(&mut writer, b"abc"),
            "let go of" => {
                writer.let_go();
                assert!(pass_on(&mut writer, b"abc"));
            }
            _ => assert!(writer.push(b"abc")),
        }
        writer.finish();
        assert_eq!(read(&mut reader), (b"abc".to_vec(), Ok(Grown::End)));
    }
}

#[test]
fn a_body_without_a_proven_end_is_cut() {
    let mut writer = writer(None);
    keep(&mut writer, b"abc");
    let mut reader = writer.shared().reader().expect("a reader");
    let shared = Arc::clone(writer.shared());
    drop(writer);
    assert_eq!(read(&mut reader), (b"abc".to_vec(), Err(io::ErrorKind::UnexpectedEof)));
    assert!(shared.reader().is_none(), "nobody joins in");
}

#[test]
fn listeners_are_told_of_all_that_happens() {
    let mut writer = writer(None);
    let mut reader = writer.shared().reader().expect("a reader");
    let told = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&told);
    reader.listen(Box::new(move || _ = counter.fetch_add(1, Ordering::Relaxed)));
    keep(&mut writer, b"a");
    writer.let_go();
    assert!(pass_on(&mut writer, b"b"));
    writer.finish();
    assert_eq!(told.load(Ordering::Relaxed), 3);
}

/// A piece that waits until it fits keeps to the window; one that waits for room, not knowing its size, goes
/// beyond it once.
#[test]
fn a_body_that_is_let_go_of_keeps_to_its_window() {
    let mut writer = writer(None);
    keep(&mut writer, &vec![b'x'; WINDOW_BYTES]);
    let mut reader = writer.shared().reader().expect("a reader");
    writer.let_go();
    assert!(writer.whole().is_none() && writer.shared().reader().is_some(), "its front is there");
    let fetching = thread::spawn(move || {
        for _ in 0..100 {
            assert!(pass_on(&mut writer, &vec![b'y'; WINDOW_BYTES / 4]));
            let state = writer.shared().lock();
            assert!(
                matches!(&state.bytes, GrowingBytes::Window { bytes, .. } if bytes.len() <= WINDOW_BYTES)
            );
        }
        let late = writer.shared().reader();
        assert!(late.is_none(), "who comes now cannot have it");
        writer.finish();
    });
    let mut total = 0;
    let end = loop {
        let (bytes, end) = read(&mut reader);
        total += bytes.len();
        match end {
            Ok(Grown::NotYet) => reader.wait(),
            end => break end,
        }
    };
    assert_eq!((total, end), (26 * WINDOW_BYTES, Ok(Grown::End)));
    fetching.join().expect("no panic");
}

#[test]
fn who_takes_nothing_while_others_wait_is_given_up() {
    let mut writer = writer(None);
    keep(&mut writer, &vec![b'x'; WINDOW_BYTES]);
    let mut stalled = writer.shared().reader().expect("a reader");
    let mut quick = writer.shared().reader().expect("a reader");
    writer.let_go();
    assert!(read(&mut quick).1.is_ok());
    assert!(pass_on(&mut writer, b"more"), "it goes on after a while");
    assert_eq!(read(&mut stalled).1, Err(io::ErrorKind::TimedOut));
    assert_eq!(read(&mut quick), (b"more".to_vec(), Ok(Grown::NotYet)));
    drop((stalled, quick));
    assert!(!pass_on(&mut writer, b"for nobody"));
}

/// A piece is added without a wait, whatever its size: the window is then full, and beyond its bound by this
/// one piece.
#[test]
fn adding_a_piece_waits_for_nothing() {
    let (mut writer, mut reader) = passing(WINDOW_BYTES);
    assert!(writer.has_space(), "nothing has come yet");
    assert!(writer.push(&vec![b'x'; WINDOW_BYTES / 4 * 3]));
    assert!(writer.has_space() && writer.space() == Some(WINDOW_BYTES / 4), "a quarter is free");
    assert!(writer.push(b"x"));
    assert!(!writer.has_space(), "less than a quarter is not worth a piece");
    assert!(writer.push(&vec![b'x'; WINDOW_BYTES - 1]));
    assert!(!writer.has_space() && writer.space() == Some(0));
    let length = WINDOW_BYTES / 4 * 7;
    assert_eq!(window_length(&writer), length);
    assert_eq!(read(&mut reader).0.len(), length);
    assert!(writer.has_space(), "the reader has had it all");
    drop(reader);
    assert!(writer.has_space(), "nobody has to be waited for");
    assert!(!writer.push(b"x"));
}

/// A body that is kept is bounded by what may be stored: readers hold nobody up.
#[test]
fn a_body_that_is_kept_always_has_space() {
    let mut writer = writer(None);
    let _reader = writer.shared().reader().expect("a reader");
    keep(&mut writer, &vec![b'x'; 2 * WINDOW_BYTES]);
    assert!(writer.has_space());
    assert_eq!(writer.give_up_stalled(Instant::now() + STALL_MAX), None);
}

#[test]
fn the_writer_is_woken_when_there_may_be_room() {
    let (mut writer, mut reader) = passing(WINDOW_BYTES);
    let other = writer.shared().reader().expect("nothing has come yet");
    let woken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&woken);
    writer.on_space(Box::new(move || _ = counter.fetch_add(1, Ordering::Relaxed)));
    let count = || woken.load(Ordering::Relaxed);
    writer.push(b"ab");
    assert_eq!(count(), 0, "the writer itself makes no room");
    reader.consume(1);
    assert_eq!(count(), 1);
    drop(other);
    assert_eq!(count(), 2);
    writer.finish();
    reader.consume(1);
    drop(reader);
    assert_eq!(count(), 2, "no writer is left to be woken");
    assert_eq!(Arc::strong_count(&woken), 1);
}

/// The clock's part, without a thread that waits: a reader has its time from when it was first found to keep
/// others waiting, and again from each of its steps.
#[test]
fn stalled_readers_are_given_up_by_the_clock_of_the_driver() {
    let (mut writer, mut slow) = passing(WINDOW_BYTES);
    let mut slower = writer.shared().reader().expect("nothing has come yet");
    let mut quick = writer.shared().reader().expect("nothing has come yet");
    let begun = Instant::now();
    let at = |stalls: f64| begun + STALL_MAX.mul_f64(stalls);
    assert_eq!(writer.give_up_stalled(at(0.0)), None, "there is room");
    writer.push(&vec![b'x'; 2 * WINDOW_BYTES]);
    assert_eq!(read(&mut quick).0.len(), 2 * WINDOW_BYTES);
    slow.consume(1);
    assert_eq!(writer.give_up_stalled(at(2.0)), Some(at(3.0)), "time begins with the first look");
    assert_eq!(writer.give_up_stalled(at(2.5)), Some(at(3.0)));
    slower.consume(2);
    assert_eq!(writer.give_up_stalled(at(2.9)), Some(at(3.9)), "another one is the slowest");
    assert_eq!(writer.give_up_stalled(at(3.9)), Some(at(4.9)), "given up; the next has its time");
    assert_eq!(read(&mut slow).1, Err(io::ErrorKind::TimedOut));
    assert_eq!(read(&mut slower).0.len(), 2 * WINDOW_BYTES - 2);
    assert_eq!(writer.give_up_stalled(at(4.9)), None, "there is room again");
    drop(slower);
    writer.push(&vec![b'y'; WINDOW_BYTES]);
    assert!(writer.give_up_stalled(at(5.0)).is_some());
    assert!(writer.give_up_stalled(at(9.0)).is_some());
    assert_eq!(read(&mut quick).0.len(), WINDOW_BYTES, "a lone reader is never given up");
    drop(slow);
}

/// What happens to a body in a window.
#[derive(Clone, Debug)]
enum Step {
    /// So many bytes come, if there is room for a piece.
    Push(usize),
    /// A reader takes so many bytes at most.
    Take(usize, usize),
    Leave(usize),
    Join,
    /// Some of the time passes that a reader may stall for.
    Pass(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_usize..40).prop_map(Step::Push),
        6 => (0_usize..4, 1_usize..60).prop_map(|(reader, most)| Step::Take(reader, most)),
        1 => (0_usize..4).prop_map(Step::Leave),
        1 => Just(Step::Join),
        1 => (1_u32..30).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..80)
}

/// A reader, and how many bytes of the content it has had.
struct Followed {
    reader: Reader,
    had: usize,
    given_up: bool,
}

impl Followed {
    fn new(reader: Reader) -> Self {
        Self { reader, had: 0, given_up: false }
    }

    /// Takes `most` bytes, which are those of `content` that come next; what it is told.
    fn take(&mut self, most: usize, content: &[u8]) -> Result<Grown, io::ErrorKind> {
        let mut piece = vec![0; most];
        let grown = self.reader.peek(&mut piece).map_err(|error| error.kind());
        if let Ok(Grown::Bytes(count)) = grown {
            assert_eq!(count, most.min(content.len() - self.had), "all that there is");
            assert_eq!(piece[..count], content[self.had..self.had + count]);
            self.reader.consume(count);
            self.had += count;
        }
        grown
    }
}

/// A body in a window, and what is known of it besides.
struct Model {
    writer: Writer,
    content: Vec<u8>,
    readers: Vec<Followed>,
    now: Instant,
    window_bytes: usize,
    /// The most that the window may hold so far.
    largest: usize,
}

impl Model {
    /// A body of which `kept` bytes were kept before it was let go of; or one that is not stored.
    fn new(window_bytes: usize, kept: Option<usize>) -> Self {
        let limits = GrowingLimits { window_bytes, stall_max: STALL_MAX };
        let (writer, reader) = match kept {
            None => Writer::passing_within(None, limits),
            Some(_) => Writer::within(None, Buffer::default(), limits),
        };
        let (content, readers) = (Vec::new(), vec![Followed::new(reader)]);
        let largest = kept.unwrap_or_default();
        let mut model =
            Self { writer, content, readers, now: Instant::now(), window_bytes, largest };
        if let Some(count) = kept {
            let piece = model.more(count);
            keep(&mut model.writer, &piece);
            model.writer.let_go();
        }
        model
    }

    /// The next bytes of the content.
    fn more(&mut self, count: usize) -> Vec<u8> {
        let from = self.content.len();
        self.content.extend((from..from + count).map(|at| at as u8));
        self.content[from..].to_vec()
    }

    fn live(&self) -> impl Iterator<Item = &Followed> {
        self.readers.iter().filter(|one| !one.given_up)
    }

    fn perform(&mut self, step: &Step) {
        let count = self.readers.len();
        match *step {
            Step::Push(count) if self.writer.has_space() => {
                let (piece, is_read) = (self.more(count), self.live().next().is_some());
                assert_eq!(self.writer.push(&piece), is_read);
                self.largest = self.largest.max(self.window_bytes + count);
            }
            Step::Take(at, most) if count > 0 => {
                let one = &mut self.readers[at % count];
                let expected = match self.content.len() - one.had {
                    _ if one.given_up => Err(io::ErrorKind::TimedOut),
                    0 => Ok(Grown::NotYet),
                    left => Ok(Grown::Bytes(left.min(most))),
                };
                assert_eq!(one.take(most, &self.content), expected);
            }
            Step::Leave(at) if count > 0 => _ = self.readers.swap_remove(at % count),
            Step::Push(_) | Step::Take(..) | Step::Leave(_) => {}
            Step::Join => self.readers.extend(self.writer.shared().reader().map(Followed::new)),
            Step::Pass(tenths) => self.pass(STALL_MAX * tenths / 10),
        }
    }

    fn pass(&mut self, time: Duration) {
        let slowest = self.live().map(|one| one.had).min();
        self.now += time;
        let next = self.writer.give_up_stalled(self.now);
        assert_eq!(next.is_none(), self.writer.has_space());
        assert!(next.is_none_or(|next| next > self.now && next <= self.now + STALL_MAX));
        for one in &mut self.readers {
            let given_up = self.writer.shared().lock().readers[&one.reader.number].given_up;
            assert!(!given_up || one.given_up || Some(one.had) == slowest);
            one.given_up = given_up;
        }
    }

    fn check(&self) {
        let slowest = self.live().map(|one| one.had).min().unwrap_or(self.content.len());
        let left = self.content.len() - slowest;
        let least = (self.window_bytes / 4).max(1);
        assert_eq!(self.writer.has_space(), left == 0 || left + least <= self.window_bytes);
        assert!(window_length(&self.writer) <= self.largest, "the window and one piece");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(9111),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whoever reads, joins, leaves or stalls: no reader sees a byte twice or misses one, and the window
    /// keeps to its bound and one piece.
    #[test]
    fn the_window_is_what_its_readers_have_not_had(
        steps in steps(), window_bytes in 1_usize..64, kept in prop::option::of(0_usize..50),
    ) {
        let mut model = Model::new(window_bytes, kept);
        for step in &steps {
            model.perform(step);
            model.check();
        }
        let Model { writer, content, readers, .. } = model;
        writer.finish();
        for mut one in readers.into_iter().filter(|one| !one.given_up) {
            while one.take(7, &content) != Ok(Grown::End) {}
            prop_assert_eq!(one.had, content.len());
        }
    }
}

/// What is taken out is the same as what is shown, however reading and writing alternate, and counts as not had until
/// it is consumed.
#[test]
fn what_a_lone_reader_takes_out_is_what_has_come() {
    let (mut writer, mut reader) = Writer::passing_fast(Some(100_000), &WideWindows::new(1));
    let expected: Vec<u8> = (0..100_000_u32).map(|number| (number * 31 % 251) as u8).collect();
    let (mut got, mut shown) = (Vec::new(), [0; 700]);
    for (number, piece) in expected.chunks(1_000).enumerate() {
        assert!(writer.push(piece));
        // Sometimes nothing is read, sometimes by a copy, and sometimes not all that is here.
        let count = match (number % 4, reader.here().map(<[u8]>::to_vec)) {
            (0, _) | (_, None) => 0,
            (1, _) => match reader.peek(&mut shown) {
                Ok(Grown::Bytes(count)) => {
                    got.extend_from_slice(&shown[..count]);
                    count
                }
                other => panic!("{other:?}"),
            },
            (_, Some(here)) => {
                let count = here.len().min(1_500);
                got.extend_from_slice(&here[..count]);
                count
            }
        };
        reader.consume(count);
        let waiting = (number + 1) * 1_000 - got.len();
        assert_eq!(writer.space(), Some(WIDE_BYTES.saturating_sub(waiting)));
    }
    assert!(writer.shared().reader().is_none(), "the front is gone");
    writer.finish();
    got.extend(read(&mut reader).0);
    assert!(got == expected);
}

#[test]
fn two_readers_share_a_window_and_take_nothing_out() {
    let (mut writer, mut one) = Writer::passing_fast(Some(19), &WideWindows::new(1));
    let mut other = writer.shared().reader().expect("nothing has come yet");
    writer.push(b"shared");
    assert_eq!(one.here(), None);
    assert_eq!(read(&mut one).0, b"shared");
    drop(one);
    assert_eq!(other.here(), Some(&b"shared"[..]), "it is alone now");
}

fn pipe() -> Arc<BodyPipe> {
    let (read, write) = io::pipe().expect("a pipe");
    Arc::new(BodyPipe { read: read.into(), write: write.into() })
}

/// A pipe is for a reader that takes one, has had all before it, and whose window is wide: the bound of wide windows is
/// that of pipes.
#[test]
fn content_goes_through_a_pipe_only_where_nothing_is_before_it() {
    let wide = WideWindows::new(1);
    let (mut writer, mut reader) = Writer::passing_fast(Some(19), &wide);
    let (other, mut narrow) = Writer::passing_fast(Some(19), &wide);
    assert!(!writer.may_pipe(), "the reader has not accepted it");
    reader.accept_pipe();
    narrow.accept_pipe();
    assert!(writer.may_pipe() && !other.may_pipe(), "one window may be wide");
    writer.push(b"before");
    assert!(!writer.may_pipe() && reader.piped().is_none());
    assert_eq!(read(&mut reader).0, b"before");
    let pipe = pipe();
    assert!(writer.note_piped(&pipe, 10));
    assert!(!writer.may_pipe() && writer.space() == Some(0), "one after the other");
    assert_eq!((reader.piped().map(|(_, count)| count), reader.here()), (Some(10), None));
    reader.consume(4);
    assert_eq!(reader.piped().map(|(_, count)| count), Some(6));
    // The end is read, and waits behind the pipe.
    writer.push(b"end");
    reader.consume(6);
    assert!(reader.piped().is_none() && Arc::strong_count(&pipe) == 1);
    writer.finish();
    assert_eq!(read(&mut reader), (b"end".to_vec(), Ok(Grown::End)));
    assert!(!other.may_pipe(), "a permit is kept until its body is dropped");
}

/// A cut does not overtake what is in the pipe.
#[test]
fn what_is_piped_comes_before_a_cut() {
    let (mut writer, mut reader) = Writer::passing_fast(Some(19), &WideWindows::new(1));
    reader.accept_pipe();
    assert!(writer.note_piped(&pipe(), 3));
    drop(writer);
    assert_eq!(reader.piped().map(|(_, count)| count), Some(3));
    reader.consume(3);
    assert_eq!(read(&mut reader).1, Err(io::ErrorKind::UnexpectedEof));
}

/// A reader that has been given up, and is alone at last, finds nothing of what it has missed.
#[test]
fn who_is_given_up_takes_nothing_out() {
    let (mut writer, mut slow) = passing(8);
    let mut quick = writer.shared().reader().expect("nothing has come yet");
    let now = Instant::now();
    assert!(pass_on(&mut writer, b"12345678"));
    assert_eq!(read(&mut quick).0, b"12345678");
    while writer.give_up_stalled(now + STALL_MAX).is_some_and(|until| until <= now + STALL_MAX) {}
    writer.give_up_stalled(now + 2 * STALL_MAX);
    writer.push(b"9");
    assert_eq!(read(&mut quick).0, b"9");
    drop(quick);
    assert_eq!(slow.here(), None);
    assert_eq!(read(&mut slow).1, Err(io::ErrorKind::TimedOut));
}
