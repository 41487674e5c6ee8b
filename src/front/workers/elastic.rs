//! Worker threads that come with the work and go without it.
//!
//! One thread is always there, so that no work is ever without anybody to do it. More are started while all
//! are busy, up to a bound; one that has had no work for a while ends.
//!
//! One lock guards the queue and the list of those who have nothing to do, so that no worker ends, or begins
//! to wait, while there is work that nobody has been woken or started for. The one that was busy last is
//! woken first: light work keeps few threads alive, not each of them in turn.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::front::workers::job::{FORWARDS_PER_WORKER, Job, Kind, Role, run};
use crate::stats::{Counter, Stats};

/// How many workers there may be, what they leave waiting, and for how long they wait themselves.
pub(super) struct Bounds {
    /// At least one.
    pub workers: usize,
    /// How many requests can be parked.
    pub parked_max: usize,
    /// For how long a worker waits for work before it ends.
    pub idle_max: Duration,
}

/// Starts a thread, the one with this number, which does this.
pub(super) type StartWorker = dyn Fn(u64, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync;

/// Hands work to as many threads as it needs, within bounds. Dropped, it ends them when the queue is empty.
pub(super) struct ElasticPool {
    shared: Arc<SharedPool>,
}

/// What the pool and its workers share.
struct SharedPool {
    bounds: Bounds,
    start: Box<StartWorker>,
    stats: Arc<Stats>,
    state: Mutex<PoolState>,
}

/// Guarded by [`SharedPool::state`].
#[derive(Default)]
struct PoolState {
    jobs: VecDeque<Job>,
    /// How many threads there are.
    workers: usize,
    /// How many of them are at work.
    busy: usize,
    /// Those that wait for work, each by what wakes it; the one that was busy last is at the end.
    idle: Vec<Arc<Condvar>>,
    /// How many threads have been started.
    started: u64,
    /// No more work comes.
    is_closed: bool,
    /// The operator knows that a thread could not be started.
    has_warned: bool,
}

impl ElasticPool {
    /// Starts the first thread by `start`; the error is that there is none to be had.
    pub(super) fn start(
        bounds: Bounds,
        stats: &Arc<Stats>,
        start: Box<StartWorker>,
    ) -> io::Result<Self> {
        assert!(bounds.workers > 0, "somebody does the work");
        let (stats, state) = (Arc::clone(stats), Mutex::default());
        let shared = Arc::new(SharedPool { bounds, start, stats, state });
        shared.start_worker(&mut shared.state.lock())?;
        Ok(Self { shared })
    }

    /// How much of this kind may wait.
    pub(super) fn waiting_max(&self, kind: Kind) -> usize {
        let bounds = &self.shared.bounds;
        let forwards_max = bounds.workers * FORWARDS_PER_WORKER;
        match kind {
            Kind::Arrival | Kind::Forward => forwards_max,
            // These slots are for what was parked: a resumed request has waited, and its client with it.
            Kind::Resumed | Kind::ResumedForward => forwards_max + bounds.parked_max,
            // Refused, it would be dropped by whoever has woken it, who may hold a lock that its end takes.
            Kind::Begun => usize::MAX,
        }
    }

    /// Hands in work; gives it back if the queue is full.
    pub(super) fn submit(&self, kind: Kind, job: Job) -> Result<(), Job> {
        let (shared, most) = (&self.shared, self.waiting_max(kind));
        let mut state = shared.state.lock();
        if state.jobs.len() >= most {
            return Err(job);
        }
        assert!(state.workers > 0, "one worker is always there");
        state.jobs.push_back(job);
        shared.stats.gauge(Counter::WaitingJobs, 1);
        // Of the workers that are not busy some are on the list, and are woken for one piece of work each; the
        // others look at the queue next, as those who are busy do once they are done. So nothing is left behind.
        let free = state.workers - state.busy;
        if let Some(wake) = state.idle.pop() {
            wake.notify_one();
        } else if state.jobs.len() > free
            && state.workers < shared.bounds.workers
            && let Err(error) = shared.start_worker(&mut state)
            && !std::mem::replace(&mut state.has_warned, true)
        {
            let count = state.workers;
            // Without the lock: the log may be slow.
            drop(state);
            log::warn!("no thread beside {count} workers: {error}; work waits, see --workers");
        }
        Ok(())
    }
}

impl Drop for ElasticPool {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.is_closed = true;
        for wake in state.idle.drain(..) {
            wake.notify_one();
        }
    }
}

impl SharedPool {
    /// Starts one more thread, which is counted from here on. Called with the lock, which the thread takes first.
    fn start_worker(self: &Arc<Self>, state: &mut PoolState) -> io::Result<()> {
        let shared = Arc::clone(self);
        (self.start)(state.started, Box::new(move || shared.work()))?;
        state.started += 1;
        state.workers += 1;
        self.stats.gauge(Counter::Workers, 1);
        Ok(())
    }

    /// The work of one thread, until it has been idle for too long or the pool is dropped.
    fn work(&self) {
        let wake = Arc::new(Condvar::new());
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.busy += 1;
                MutexGuard::unlocked(&mut state, || run(job, Role::Any, &self.stats));
                state.busy -= 1;
            } else if state.is_closed || !self.wait(&mut state, &wake) {
                break;
            }
        }
        // In one step with the look at the queue.
        state.workers -= 1;
        self.stats.gauge(Counter::Workers, -1);
    }

    /// Waits for work; `false` if none has come for so long that the thread is to end.
    fn wait(&self, state: &mut MutexGuard<'_, PoolState>, wake: &Arc<Condvar>) -> bool {
        let deadline = Instant::now() + self.bounds.idle_max;
        state.idle.push(Arc::clone(wake));
        loop {
            // The last one stays, and need not look at the clock.
            let is_late = if state.workers == 1 {
                wake.wait(state);
                false
            } else {
                wake.wait_until(state, deadline).timed_out()
            };
            // Whoever wakes a worker takes it off the list: if it is off, there is work, even if the time is up.
            let Some(at) = state.idle.iter().position(|other| Arc::ptr_eq(other, wake)) else {
                return true;
            };
            // Several may be late at once: the lock lets each see how many are left.
            if is_late && state.workers > 1 {
                state.idle.remove(at);
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const LONG: Duration = Duration::from_secs(3600);

    /// A pool whose threads tell when they end, and which may be kept from starting any.
    struct TestPool {
        pool: ElasticPool,
        stats: Arc<Stats>,
        ended: Receiver<u64>,
        has_threads: Arc<AtomicBool>,
    }

    impl TestPool {
        fn new(workers: usize, idle_max: Duration) -> Self {
            let (ends, ended) = channel();
            let has_threads = Arc::new(AtomicBool::new(true));
            let may_start = Arc::clone(&has_threads);
            let start = move |number, work: Box<dyn FnOnce() + Send>| {
                if !may_start.load(Ordering::Relaxed) {
                    return Err(io::Error::from(io::ErrorKind::WouldBlock));
                }
                let ends = ends.clone();
                let run = move || {
                    work();
                    ends.send(number).ok();
                };
                thread::Builder::new().spawn(run).map(drop)
            };
            let bounds = Bounds { workers, parked_max: 100_000, idle_max };
            let stats = Arc::default();
            let pool = ElasticPool::start(bounds, &stats, Box::new(start)).expect("a thread");
            Self { pool, stats, ended, has_threads }
        }

        fn submit(&self, job: impl FnOnce() + Send + 'static) {
            submit(&self.pool, job);
        }

        /// Has `count` jobs begin, which end when the sender is dropped.
        fn hold(&self, count: usize) -> Sender<()> {
            let (release, held) = channel::<()>();
            let held = Arc::new(Mutex::new(held));
            let (begins, begun) = channel();
            for _ in 0..count {
                let (held, begins) = (Arc::clone(&held), begins.clone());
                self.submit(move || {
                    begins.send(()).expect("the test listens");
                    let _ = held.lock().recv();
                });
            }
            for _ in 0..count {
                begun.recv_timeout(PATIENCE).expect("each has a worker");
            }
            release
        }

        fn workers(&self) -> usize {
            self.pool.shared.state.lock().workers
        }

        /// Waits until so many have nothing to do.
        fn rest(&self, idle: usize) {
            let deadline = Instant::now() + PATIENCE;
            while self.pool.shared.state.lock().idle.len() != idle {
                assert!(Instant::now() < deadline, "they never rest");
                thread::yield_now();
            }
        }
    }

    fn submit(pool: &ElasticPool, job: impl FnOnce() + Send + 'static) {
        let job: Job = Box::new(move |role| {
            assert_eq!(role, Role::Any);
            job();
        });
        assert!(pool.submit(Kind::ResumedForward, job).is_ok(), "the queue is long");
    }

    #[test]
    fn workers_come_with_the_work_and_go_without_it() {
        let pool = TestPool::new(8, Duration::from_millis(1));
        assert_eq!(pool.workers(), 1);
        let release = pool.hold(8);
        assert_eq!(pool.workers(), 8);
        // All are busy: this waits, and nobody is started for it.
        let (done, is_done) = channel();
        pool.submit(move || done.send(()).expect("the test listens"));
        assert_eq!(pool.workers(), 8);
        assert!(is_done.try_recv().is_err());
        drop(release);
        assert_eq!(is_done.recv_timeout(PATIENCE), Ok(()));
        for _ in 0..7 {
            pool.ended.recv_timeout(PATIENCE).expect("it ends");
        }
        assert_eq!(pool.workers(), 1);
        pool.rest(1);
        assert!(pool.ended.try_recv().is_err(), "one stays");
        assert_eq!(pool.pool.shared.state.lock().started, 8);
    }

    #[test]
    fn idle_workers_are_woken_before_others_are_started_and_the_latest_first() {
        let pool = TestPool::new(8, LONG);
        drop(pool.hold(3));
        pool.rest(3);
        let (tells, told) = channel();
        let mut threads = Vec::new();
        for _ in 0..20 {
            let tells = tells.clone();
            pool.submit(move || tells.send(thread::current().id()).expect("the test listens"));
            threads.push(told.recv_timeout(PATIENCE).expect("it is done"));
            pool.rest(3);
        }
        threads.dedup();
        assert_eq!(threads.len(), 1, "the others may end");
        drop(pool.hold(3));
        assert_eq!(pool.workers(), 3);
    }

    /// A worker whose time is up at the very moment when work comes must not leave it behind: each worker ends as
    /// soon as it has nothing to do, while several threads hand in work one by one.
    #[test]
    fn no_work_is_left_behind_by_workers_that_end() {
        const EACH: usize = 3000;
        let pool = TestPool::new(4, Duration::ZERO).pool;
        let count = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        let (done, is_done) = channel();
                        let count = Arc::clone(&count);
                        submit(&pool, move || {
                            count.fetch_add(1, Ordering::Relaxed);
                            done.send(()).expect("the test listens");
                        });
                        is_done.recv_timeout(PATIENCE).expect("somebody does it");
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 4 * EACH);
        let state = pool.shared.state.lock();
        assert!(state.workers <= 4 && state.jobs.is_empty());
    }

    #[test]
    fn without_a_thread_work_waits_for_those_that_there_are() {
        let pool = TestPool::new(4, LONG);
        pool.has_threads.store(false, Ordering::Relaxed);
        let release = pool.hold(1);
        let (done, is_done) = channel();
        for number in 0..3 {
            let done = done.clone();
            pool.submit(move || done.send(number).expect("the test listens"));
        }
        assert_eq!(pool.workers(), 1);
        assert!(pool.pool.shared.state.lock().has_warned);
        drop(release);
        for number in 0..3 {
            assert_eq!(is_done.recv_timeout(PATIENCE), Ok(number));
        }
        // Once there are threads again, they are started.
        pool.has_threads.store(true, Ordering::Relaxed);
        drop(pool.hold(4));
        assert_eq!(pool.workers(), 4);
    }

    #[test]
    fn a_pool_without_its_first_thread_does_not_start() {
        let bounds = Bounds { workers: 4, parked_max: 4, idle_max: LONG };
        let start = |_, _| Err(io::Error::from(io::ErrorKind::WouldBlock));
        assert!(ElasticPool::start(bounds, &Arc::default(), Box::new(start)).is_err());
    }

    #[test]
    fn a_panic_costs_no_worker_and_the_counters_stay_true() {
        let pool = TestPool::new(1, LONG);
        for _ in 0..3 {
            pool.submit(|| panic!("on purpose"));
        }
        let (done, is_done) = channel();
        pool.submit(move || done.send(()).expect("the test listens"));
        assert_eq!(is_done.recv_timeout(PATIENCE), Ok(()));
        pool.rest(1);
        assert_eq!(pool.pool.shared.state.lock().started, 1);
        assert!(pool.stats.summary().ends_with("3 panics"), "{}", pool.stats.summary());
        let TestPool { pool, stats, ended, .. } = pool;
        drop(pool);
        assert_eq!(ended.recv_timeout(PATIENCE), Ok(0), "a dropped pool ends");
        for counter in [Counter::Workers, Counter::BusyWorkers, Counter::WaitingJobs] {
            assert_eq!(stats.snapshot().get(counter), Some(0), "{counter:?}");
        }
    }
}
