//! A fixed number of worker threads, on crossbeam's channels.
//!
//! Work comes in three kinds. An arrival is looked up, which never waits; what it then asks of the origin
//! server may wait long; and what has begun to be answered goes on, which reads from a store. So that fresh hits are
//! answered, and no answer stops half way, even when the origin server keeps every worker waiting, there are a few
//! threads more: for eight workers one that only looks up, and one that only does what has begun.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use crate::front::workers::job::{FORWARDS_PER_WORKER, Job, Kind, Role, run};
use crate::stats::{Counter, Stats};
use crate::vital;

/// New arrivals that can wait to be looked up, which takes microseconds.
const ARRIVALS_MAX: usize = 1024;
/// For this many workers there is one thread that only looks up, and one that only does what has begun.
const WORKERS_PER_RESERVED: usize = 8;

/// Hands work to a fixed number of threads. Dropped, it ends them when the queues are empty.
pub(super) struct FixedPool {
    arrivals: Sender<Job>,
    forwards: Sender<Job>,
    /// [`Kind::Begun`]: without a bound of its own, because none may be refused.
    begun: Sender<Job>,
    /// New requests for the origin server beyond this are refused.
    forwards_max: usize,
    stats: Arc<Stats>,
}

impl FixedPool {
    /// Starts `workers` threads, at least one, and those that do one kind of work alone. At most `parked_max`
    /// requests can be parked.
    pub(super) fn start(workers: usize, parked_max: usize, stats: &Arc<Stats>) -> io::Result<Self> {
        // The slots beyond the bound for new work are for what was parked: a resumed request has waited,
        // and its client with it.
        let forwards_max = workers * FORWARDS_PER_WORKER;
        let (arrivals, arriving) = bounded::<Job>(ARRIVALS_MAX + parked_max);
        let (forwards, forwarding) = bounded::<Job>(forwards_max + parked_max);
        let (begun, begun_before) = unbounded::<Job>();
        let reserved = (workers / WORKERS_PER_RESERVED).max(1);
        let threads = workers + 2 * reserved;
        stats.gauge(Counter::Workers, threads.cast_signed() as i64);
        for number in 0..threads {
            let takes = match number {
                _ if number < reserved => Takes::Arrivals,
                _ if number < 2 * reserved => Takes::Begun,
                _ => Takes::All,
            };
            let queues = Queues {
                arriving: arriving.clone(),
                forwarding: forwarding.clone(),
                begun: begun_before.clone(),
            };
            let stats = Arc::clone(stats);
            let run_all = move || {
                work(takes, &queues, &stats);
                Ok(())
            };
            vital::spawn(&format!("worker-{number}"), run_all)?;
        }
        Ok(Self { arrivals, forwards, begun, forwards_max, stats: Arc::clone(stats) })
    }

    /// How much of this kind may wait, beside what the channels hold at most.
    pub(super) fn waiting_max(&self, kind: Kind) -> usize {
        match kind {
            Kind::Arrival => ARRIVALS_MAX,
            Kind::Forward => self.forwards_max,
            Kind::Resumed | Kind::ResumedForward | Kind::Begun => usize::MAX,
        }
    }

    /// Hands in work; gives it back if the queue is full.
    pub(super) fn submit(&self, kind: Kind, job: Job) -> Result<(), Job> {
        let queue = match kind {
            Kind::Arrival | Kind::Resumed => &self.arrivals,
            Kind::Forward | Kind::ResumedForward => &self.forwards,
            Kind::Begun => &self.begun,
        };
        let most = self.waiting_max(kind);
        // Several threads may get past this at once, and overshoot by as many; the channel's own bound
        // holds for all.
        if queue.len() >= most {
            return Err(job);
        }
        queue.try_send(job).map_err(TrySendError::into_inner)?;
        self.stats.gauge(Counter::WaitingJobs, 1);
        Ok(())
    }
}

/// Which work a thread takes.
#[derive(Clone, Copy)]
enum Takes {
    Arrivals,
    Begun,
    All,
}

/// Where a thread takes its work.
struct Queues {
    arriving: Receiver<Job>,
    forwarding: Receiver<Job>,
    begun: Receiver<Job>,
}

/// The work of one thread, until the pool is dropped.
fn work(takes: Takes, queues: &Queues, stats: &Stats) {
    let Queues { arriving, forwarding, begun } = queues;
    // A channel that is closed and empty has nothing more; the others may have.
    let any = || arriving.recv().or_else(|_| forwarding.recv()).or_else(|_| begun.recv());
    loop {
        let job = match takes {
            Takes::Arrivals => arriving.recv(),
            Takes::Begun => begun.recv(),
            Takes::All => crossbeam_channel::select! {
                recv(begun) -> job => job.or_else(|_| any()),
                recv(forwarding) -> job => job.or_else(|_| any()),
                recv(arriving) -> job => job.or_else(|_| any()),
            },
        };
        // The channels are closed when the pool is dropped.
        let Ok(job) = job else { return };
        let role = if let Takes::Arrivals = takes { Role::Reserved } else { Role::Any };
        run(job, role, stats);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn arrivals_wait_in_a_bounded_queue() {
        let pool = FixedPool::start(1, 4, &Arc::default()).expect("a thread");
        let (release, held) = channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        let (begun, has_begun) = channel::<()>();
        // Both threads that take arrivals are held: one by the lock, one by the channel behind it.
        for _ in 0..2 {
            let (held, begun) = (Arc::clone(&held), begun.clone());
            let job = Box::new(move |_| {
                begun.send(()).expect("the test listens");
                let _ = held.lock().map(|held| held.recv());
            });
            assert!(pool.submit(Kind::Arrival, job).is_ok());
        }
        has_begun.recv().and_then(|()| has_begun.recv()).expect("both have begun");
        for _ in 0..ARRIVALS_MAX {
            assert!(pool.submit(Kind::Arrival, Box::new(|_| ())).is_ok());
        }
        assert!(pool.submit(Kind::Arrival, Box::new(|_| ())).is_err());
        assert!(pool.submit(Kind::Resumed, Box::new(|_| ())).is_ok(), "it was accepted before");
        drop(release);
    }

    #[test]
    fn what_has_begun_is_never_refused_and_goes_on_while_the_workers_wait() {
        let pool = FixedPool::start(1, 4, &Arc::default()).expect("threads");
        let (release, held) = channel::<()>();
        let (begun, has_begun) = channel();
        let job = move |_| {
            begun.send(()).expect("the test listens");
            _ = held.recv();
        };
        assert!(pool.submit(Kind::Forward, Box::new(job)).is_ok());
        has_begun.recv().expect("the worker is held");
        let (done, is_done) = channel();
        let count = 4 * (FORWARDS_PER_WORKER + 4);
        for _ in 0..count {
            let done = done.clone();
            let job = Box::new(move |_| done.send(()).expect("the test listens"));
            assert!(pool.submit(Kind::Begun, job).is_ok());
        }
        for _ in 0..count {
            assert_eq!(is_done.recv(), Ok(()));
        }
        drop(release);
    }

    #[test]
    fn a_reserved_worker_answers_while_the_others_wait() {
        let pool = FixedPool::start(1, 4, &Arc::default()).expect("threads");
        let (release, held) = channel::<()>();
        assert!(pool.submit(Kind::Forward, Box::new(move |_| _ = held.recv())).is_ok());
        let (done, is_done) = channel();
        for _ in 0..8 {
            let done = done.clone();
            let job = Box::new(move |_| done.send(()).expect("the test listens"));
            assert!(pool.submit(Kind::Arrival, job).is_ok());
        }
        for _ in 0..8 {
            assert_eq!(is_done.recv(), Ok(()));
        }
        drop(release);
    }
}
