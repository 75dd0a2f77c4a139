//! What is held right now.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::observe::holds;

#[derive(Debug)]
struct Now;

pub(super) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Now));
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let process = holds::process();
        let count = ConstGauge::new(i64::try_from(process.count()).unwrap_or(i64::MAX));
        let oldest = ConstGauge::new(process.oldest().unwrap_or_default().as_secs_f64());
        let help = "Rounds in which something is held now";
        count.encode(encoder.encode_descriptor("holds", help, None, count.metric_type())?)?;
        let help = "How long the oldest hold has lasted; 0 where nothing is held";
        let seconds = Some(&Unit::Seconds);
        oldest.encode(encoder.encode_descriptor("hold_oldest", help, seconds, oldest.metric_type())?)
    }
}
