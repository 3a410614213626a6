//! Sums and histograms for a collector, kept since the start.

use std::borrow::Cow;
use std::collections::HashMap;

use parking_lot::Mutex;
use sideguard_types::time::Timestamp;

use super::measures::{CUMULATIVE, Data, Histogram, HistogramPoint, Metric, NumberPoint, Sum};
use super::messages::{KeyValue, Value, int, text};

/// Most series of one instrument. Values of further ones share one that says so, as the specification has it for cardinality
/// limits: what agents write (models, tools) stands in labels.
const MAX_SERIES: usize = 1_000;
/// Longest value of a label; a longer one is cut.
const MAX_LABEL: usize = 128;

/// Something that is measured.
#[derive(Debug)]
pub struct Instrument {
    /// Name.
    pub name: &'static str,
    /// Unit, in UCUM's spelling.
    pub unit: &'static str,
    /// What it tells.
    pub about: &'static str,
    /// Upper bounds of a histogram's buckets; none for a sum.
    pub bounds: &'static [f64],
}

/// Value of a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Label {
    /// A text.
    Text(Cow<'static, str>),
    /// A whole number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
}

impl Label {
    /// A text of somebody else's.
    #[must_use]
    pub fn of(value: &str) -> Self {
        Self::Text(Cow::Owned(value.chars().take(MAX_LABEL).collect()))
    }

    fn value(&self) -> Value {
        match self {
            Self::Text(value) => text(value.as_ref()),
            Self::Number(value) => int(*value),
            Self::Flag(value) => Value::Bool(*value),
        }
    }
}

impl From<&'static str> for Label {
    fn from(value: &'static str) -> Self {
        Self::Text(Cow::Borrowed(value))
    }
}

/// Names and values that tell series apart.
pub type Labels = Vec<(&'static str, Label)>;

#[derive(Debug, Clone, Default)]
struct Series {
    count: u64,
    sum: f64,
    range: Option<(f64, f64)>,
    buckets: Vec<u64>,
}

type Family = (&'static Instrument, HashMap<Labels, Series>);

/// What was measured since the start.
#[derive(Debug)]
pub(super) struct Meter {
    began: Timestamp,
    families: Mutex<HashMap<&'static str, Family>>,
}

impl Meter {
    pub(super) fn new(began: Timestamp) -> Self {
        Self { began, families: Mutex::default() }
    }

    /// Adds a value to a sum, or one to the bucket that a value falls into.
    pub(super) fn add(&self, instrument: &'static Instrument, labels: Labels, value: f64) {
        let mut families = self.families.lock();
        let (_, all) = families.entry(instrument.name).or_insert_with(|| (instrument, HashMap::new()));
        let labels = if all.len() < MAX_SERIES || all.contains_key(&labels) {
            labels
        } else {
            vec![("otel.metric.overflow", Label::Flag(true))]
        };
        let series = all.entry(labels).or_default();
        series.count += 1;
        series.sum += value;
        let (least, most) = series.range.unwrap_or((value, value));
        series.range = Some((least.min(value), most.max(value)));
        if !instrument.bounds.is_empty() {
            series.buckets.resize(instrument.bounds.len() + 1, 0);
            // Bounds are inclusive.
            let at = instrument.bounds.partition_point(|bound| *bound < value);
            if let Some(bucket) = series.buckets.get_mut(at) {
                *bucket += 1;
            }
        }
    }

    /// All of it, as it stands at `now`.
    pub(super) fn metrics(&self, now: Timestamp) -> Vec<Metric> {
        // Copied, so that nobody waits while it is written out.
        let families: Vec<Family> = self.families.lock().values().cloned().collect();
        families
            .into_iter()
            .map(|(instrument, series)| metric(instrument, series, (self.began, now)))
            .collect()
    }
}

fn metric(
    instrument: &Instrument,
    series: HashMap<Labels, Series>,
    (began, now): (Timestamp, Timestamp),
) -> Metric {
    let nanos = |time: Timestamp| u64::try_from(time.0).unwrap_or(0).saturating_mul(1_000);
    let attributes = |labels: &Labels| -> Vec<KeyValue> {
        labels.iter().map(|(name, label)| KeyValue::new(*name, label.value())).collect()
    };
    let data = if instrument.bounds.is_empty() {
        let point = |(labels, one): (Labels, Series)| NumberPoint {
            start_time_unix_nano: nanos(began),
            time_unix_nano: nanos(now),
            as_double: Some(one.sum),
            attributes: attributes(&labels),
        };
        Data::Sum(Sum {
            data_points: series.into_iter().map(point).collect(),
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        })
    } else {
        let point = |(labels, one): (Labels, Series)| HistogramPoint {
            start_time_unix_nano: nanos(began),
            time_unix_nano: nanos(now),
            count: one.count,
            sum: Some(one.sum),
            bucket_counts: one.buckets,
            explicit_bounds: instrument.bounds.to_vec(),
            attributes: attributes(&labels),
            min: one.range.map(|(least, _)| least),
            max: one.range.map(|(_, most)| most),
        };
        Data::Histogram(Histogram {
            data_points: series.into_iter().map(point).collect(),
            aggregation_temporality: CUMULATIVE,
        })
    };
    Metric {
        name: instrument.name.to_owned(),
        description: instrument.about.to_owned(),
        unit: instrument.unit.to_owned(),
        data: Some(data),
    }
}

#[cfg(test)]
mod tests {
    use sideguard_types::time::Timestamp;

    use super::super::measures::Data;
    use super::{Instrument, Label, MAX_SERIES, Meter};

    static TOOK: Instrument = Instrument { name: "took", unit: "s", about: "", bounds: &[1.0, 2.0] };

    #[test]
    fn ten_thousand_agents_are_no_more_series_than_the_most() {
        let meter = Meter::new(Timestamp(0));
        for agent in 0..10_000 {
            meter.add(&TOOK, vec![("agent", Label::of(&format!("agent-{agent}")))], 1.5);
        }
        let metrics = meter.metrics(Timestamp(1));
        let Some(Data::Histogram(histogram)) = &metrics[0].data else { panic!("a histogram") };
        assert_eq!(histogram.data_points.len(), MAX_SERIES + 1);
        assert_eq!(
            histogram.data_points.iter().map(|point| point.count).sum::<u64>(),
            10_000,
            "none is lost"
        );
    }

    #[test]
    fn a_value_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let meter = Meter::new(Timestamp(0));
        for value in [0.5, 1.0, 1.1, 7.0] {
            meter.add(&TOOK, Vec::new(), value);
        }
        let metrics = meter.metrics(Timestamp(1));
        let Some(Data::Histogram(histogram)) = &metrics[0].data else { panic!("a histogram") };
        let point = &histogram.data_points[0];
        assert_eq!(point.bucket_counts, [2, 1, 1]);
        assert_eq!((point.min, point.max, point.count), (Some(0.5), Some(7.0), 4));
    }
}
