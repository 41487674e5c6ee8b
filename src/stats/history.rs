//! What was counted over the last minute, over the last hour and since the start.
//!
//! The counters are looked at once a second, and moments of the past are kept: one for each second of the minute, one
//! for each minute of the hour. What was counted since is the difference, histograms of latencies included.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stats::{Counter, Snapshot};

/// Values in the plot of a minute, and of an hour, beside the one that has not ended.
pub const POINTS: usize = 60;

/// The counters of which there are plots.
pub const PLOTTED: [Counter; 5] = [
    Counter::Request,
    Counter::Hit,
    Counter::BytesSent,
    Counter::BytesFromCache,
    Counter::OriginRequest,
];

/// A value of a plot, in the order of [`PLOTTED`].
pub type PlotPoint = [u64; PLOTTED.len()];

/// The counters of which there are plots, as a snapshot has them.
pub fn plotted(snapshot: &Snapshot) -> PlotPoint {
    PLOTTED.map(|counter| snapshot.get(counter).unwrap_or(0))
}

/// What was counted between two points.
pub fn between(earlier: PlotPoint, later: PlotPoint) -> PlotPoint {
    // A counter that is read while it is written to may seem to have gone back.
    std::array::from_fn(|index| later[index].saturating_sub(earlier[index]))
}

/// A span of time of which there are figures.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HistorySpan {
    /// The last 60 to 61 seconds; less after the process was stopped.
    Minute,
    /// The same of minutes.
    Hour,
    /// Since the start of the proxy.
    Start,
}

impl HistorySpan {
    /// All of them, in the order of the page.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Start];

    /// Its name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Start => "start",
        }
    }
}

/// The counters, and when they were read.
#[derive(Clone, Debug)]
pub struct StatsMoment {
    /// When they were read.
    pub at: Instant,
    /// What they were. Moments of a proxy that does nothing share one.
    pub snapshot: Arc<Snapshot>,
}

/// What was counted over a span.
#[derive(Clone, Debug)]
pub struct SpanSnapshot {
    /// How long the span was: shorter than its name says until the proxy has run for so long.
    pub taken: Duration,
    /// What was counted; without levels, which are of now alone.
    pub snapshot: Snapshot,
}

/// A plot: what was counted in equal steps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plot {
    /// The seconds of a step.
    pub step: u64,
    /// The oldest first; the last one is of a step that has not ended.
    pub values: Vec<PlotPoint>,
}

/// Moments of the past: at most [`POINTS`] + 1 for the minute and for the hour, and less than twice [`POINTS`] points
/// since the start.
#[derive(Debug)]
pub struct StatsHistory {
    begun: Instant,
    /// How often the counters were looked at: once a second.
    second: u64,
    minute: SpanMoments,
    hour: SpanMoments,
    start: WholePlot,
}

impl StatsHistory {
    /// The history of a proxy that starts at this moment, and has counted nothing.
    pub fn new(begun: Instant) -> Self {
        let first = StatsMoment { at: begun, snapshot: Arc::default() };
        let moments = |step| SpanMoments { step, kept: VecDeque::from([first.clone()]) };
        let (minute, hour) = (moments(1), moments(60));
        Self { begun, second: 0, minute, hour, start: WholePlot::new() }
    }

    /// Takes the counters of the next second.
    pub fn note(&mut self, mut now: StatsMoment) {
        self.second += 1;
        // At rest nothing changes, and a moment costs no more than its time.
        if *self.last().snapshot == *now.snapshot {
            now.snapshot = Arc::clone(&self.last().snapshot);
        }
        self.start.note(self.second, plotted(&now.snapshot));
        if self.second.is_multiple_of(self.hour.step) {
            self.hour.note(now.clone());
        }
        self.minute.note(now);
    }

    /// The last moment that was noted.
    pub fn last(&self) -> &StatsMoment {
        self.minute.kept.back().expect("one is always kept")
    }

    /// What was counted over a span that ends now.
    pub fn over(&self, span: HistorySpan, now: &StatsMoment) -> SpanSnapshot {
        let nothing = StatsMoment { at: self.begun, snapshot: Arc::default() };
        let then = match span {
            HistorySpan::Minute => self.minute.oldest(now.at),
            HistorySpan::Hour => self.hour.oldest(now.at),
            HistorySpan::Start => &nothing,
        };
        let taken = now.at.saturating_duration_since(then.at);
        SpanSnapshot { taken, snapshot: now.snapshot.less(&then.snapshot) }
    }

    /// The plot of a span that ends now.
    pub fn plot(&self, span: HistorySpan, now: &StatsMoment) -> Plot {
        match span {
            HistorySpan::Minute => self.minute.plot(now),
            HistorySpan::Hour => self.hour.plot(now),
            HistorySpan::Start => Plot {
                step: self.start.step,
                values: values(self.start.points.iter().copied(), plotted(&now.snapshot)),
            },
        }
    }
}

/// What was counted from each point to the next, and from the last one to now.
fn values(points: impl Iterator<Item = PlotPoint> + Clone, now: PlotPoint) -> Vec<PlotPoint> {
    let after = points.clone().skip(1).chain([now]);
    points.zip(after).map(|(one, next)| between(one, next)).collect()
}

/// The newest moments at equal distances.
#[derive(Debug)]
struct SpanMoments {
    /// Seconds between two of them.
    step: u64,
    /// The oldest first, and never none.
    kept: VecDeque<StatsMoment>,
}

impl SpanMoments {
    fn note(&mut self, now: StatsMoment) {
        let span = Duration::from_secs(self.step * POINTS as u64);
        let at = now.at;
        self.kept.push_back(now);
        // A process that was stopped for a while has fewer seconds than the clock, and forgets by the latter.
        let is_old = |second: &StatsMoment| at.saturating_duration_since(second.at) >= span;
        while self.kept.len() > POINTS + 1 || self.kept.get(1).is_some_and(is_old) {
            self.kept.pop_front();
        }
    }

    /// The moments of a span that ends now, and never none: one that is older by more than a step is behind a time in
    /// which the process was stopped.
    fn within(&self, now: Instant) -> impl Iterator<Item = &StatsMoment> + Clone {
        let span = Duration::from_secs(self.step * (POINTS as u64 + 1));
        let is_old = |moment: &StatsMoment| now.saturating_duration_since(moment.at) > span;
        let old = self.kept.iter().take_while(|moment| is_old(moment)).count();
        self.kept.iter().skip(old.min(self.kept.len() - 1))
    }

    fn oldest(&self, now: Instant) -> &StatsMoment {
        self.within(now).next().expect("one is always kept")
    }

    fn plot(&self, now: &StatsMoment) -> Plot {
        let points = self.within(now.at).map(|moment| plotted(&moment.snapshot));
        Plot { step: self.step, values: values(points, plotted(&now.snapshot)) }
    }
}

/// The plot since the start: when there are twice as many points as [`POINTS`], every second one goes, and the step
/// doubles.
#[derive(Debug)]
struct WholePlot {
    step: u64,
    points: Vec<PlotPoint>,
}

impl WholePlot {
    fn new() -> Self {
        Self { step: 1, points: vec![PlotPoint::default()] }
    }

    fn note(&mut self, second: u64, point: PlotPoint) {
        if !second.is_multiple_of(self.step) {
            return;
        }
        self.points.push(point);
        if self.points.len() > 2 * POINTS {
            // The first one stays: it is the start.
            self.points = self.points.iter().step_by(2).copied().collect();
            self.step *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Stats;

    fn moment(begun: Instant, milliseconds: u64, stats: &Stats) -> StatsMoment {
        let snapshot = Arc::new(stats.snapshot());
        StatsMoment { at: begun + Duration::from_millis(milliseconds), snapshot }
    }

    /// One request a second for three hours, each slower than those before by an hour.
    #[test]
    fn minute_and_hour_are_those_of_the_proxy_and_bounded() {
        let (begun, stats) = (Instant::now(), Stats::default());
        let mut history = StatsHistory::new(begun);
        for second in 1..=10_800 {
            stats.count(Counter::Request);
            let slow = Duration::from_micros(40 * 10_u64.pow((second / 3600) as u32));
            stats.count_latency(true, slow);
            let now = moment(begun, second * 1000, &stats);
            let over = |history: &StatsHistory, span| history.over(span, &now);
            history.note(now.clone());
            let requests = |span| over(&history, span).snapshot.get(Counter::Request).unwrap_or(0);
            assert_eq!(requests(HistorySpan::Minute), second.min(60));
            let hour = requests(HistorySpan::Hour);
            let expected = if second < 3600 { second..=second } else { 3600..=3659 };
            assert!(expected.contains(&hour), "{second}: {hour}");
            assert_eq!(over(&history, HistorySpan::Hour).taken.as_secs(), hour);
            assert_eq!(requests(HistorySpan::Start), second);
            assert!(history.minute.kept.len() <= 61 && history.hour.kept.len() <= 61);
            assert!(history.start.points.len() <= 120);
        }
        let now = moment(begun, 10_800_000, &stats);
        let half = |span| history.over(span, &now).snapshot.hits.quantile_us(0.5);
        let (minute, hour, start) =
            (half(HistorySpan::Minute), half(HistorySpan::Hour), half(HistorySpan::Start));
        assert_eq!((minute, hour, start), (Some(5_000), Some(5_000), Some(500)));
    }

    #[test]
    fn plots_forget_the_oldest_or_grow_coarse() {
        let (begun, stats) = (Instant::now(), Stats::default());
        let mut history = StatsHistory::new(begun);
        for second in 1..=1000 {
            stats.count(Counter::Request);
            history.note(moment(begun, second * 1000, &stats));
        }
        let now = moment(begun, 1_000_500, &stats);
        let (minute, start) =
            (history.plot(HistorySpan::Minute, &now), history.plot(HistorySpan::Start, &now));
        assert_eq!((minute.step, minute.values.len()), (1, POINTS + 1));
        let requests = |plot: &Plot| plot.values.iter().map(|value| value[0]).sum::<u64>();
        assert_eq!((requests(&minute), requests(&start)), (60, 1000));
        // 1000 seconds in steps of 16: the last point is that of second 992.
        assert_eq!((start.step, start.values.last()), (16, Some(&[8, 0, 0, 0, 0])));
        assert!(start.values[..62].iter().all(|value| *value == [16, 0, 0, 0, 0]));
    }

    /// `docs/control.md` says so.
    #[test]
    fn a_history_takes_at_most_300_kib() {
        let mut snapshot = Stats::default().snapshot();
        // There are some 50 words behind `detail=`.
        snapshot.details = vec![("stale-while-revalidate", u64::MAX); 60];
        let of_snapshot = size_of_val(&snapshot)
            + size_of_val(&*snapshot.counts)
            + size_of_val(&*snapshot.forwarded)
            + size_of_val(&*snapshot.details);
        let moments = 2 * (POINTS + 1) * (size_of::<StatsMoment>() + of_snapshot);
        let all = moments + 2 * POINTS * size_of::<PlotPoint>();
        assert!(all <= 300 * 1024, "{all} bytes");
    }

    #[test]
    fn a_proxy_at_rest_keeps_one_snapshot_and_one_that_was_stopped_forgets() {
        let (begun, stats) = (Instant::now(), Stats::default());
        let mut history = StatsHistory::new(begun);
        for second in 1..=100 {
            history.note(moment(begun, second * 1000, &stats));
        }
        let first = Arc::clone(&history.last().snapshot);
        assert!(history.minute.kept.iter().all(|moment| Arc::ptr_eq(&moment.snapshot, &first)));
        stats.count(Counter::Request);
        history.note(moment(begun, 101_000, &stats));
        // The machine sleeps for a day.
        let later = moment(begun, 86_400_000, &stats);
        history.note(later.clone());
        let minute = history.over(HistorySpan::Minute, &later);
        assert_eq!(minute.snapshot.get(Counter::Request), Some(0));
        // A second before it sleeps once more, and a few after: what came before is not of the last minute.
        stats.count(Counter::Request);
        for second in 0..30 {
            let now = moment(begun, 172_800_000 + second * 1000, &stats);
            history.note(now.clone());
            let SpanSnapshot { taken, snapshot } = history.over(HistorySpan::Minute, &now);
            assert_eq!((taken.as_secs(), snapshot.get(Counter::Request)), (second, Some(0)));
        }
    }
}
