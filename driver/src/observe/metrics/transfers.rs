//! Copies between hosts, looked at when somebody asks: as the controller sees them, and both ends.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::agent::transfer::counters::Counters;
use crate::controller::transfers::{Failure, Transfers};

#[derive(Debug)]
struct Conducted(Arc<Transfers>);

#[derive(Debug)]
struct Ends(Arc<Counters>);

pub(super) fn register_controller(registry: &mut Registry, transfers: Arc<Transfers>) {
    registry.register_collector(Box::new(Conducted(transfers)));
}

pub(super) fn register_agent(registry: &mut Registry, counters: Arc<Counters>) {
    registry.register_collector(Box::new(Ends(counters)));
}

impl Collector for Conducted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = self.0.figures();
        let encoder = &mut encoder;
        gauge(encoder, "copies_running", "Copies between hosts that are under way", figures.running as u64)?;
        let help = "Data that has arrived of copies between hosts";
        counter(encoder, "copied", help, Some(&Unit::Bytes), figures.copied_bytes)?;
        counter(encoder, "copies_arrived", "Volumes that have arrived whole", None, figures.arrived)?;
        let help = "Copies between hosts that did not come to their end";
        let failed = Failure::ALL.into_iter().map(Failure::as_str).zip(figures.failed);
        by_reason(encoder, "copies_failed", help, failed)
    }
}

/// Name, help, and how to read it.
type CounterOf = (&'static str, &'static str, Option<Unit>, fn(&Counters) -> u64);

const COUNTERS: [CounterOf; 6] = [
    ("copy_sent", "Data of images sent to other hosts", Some(Unit::Bytes), |all| all.sent_bytes.get()),
    ("copy_received", "Data of images received from other hosts", Some(Unit::Bytes), |all| {
        all.received_bytes.get()
    }),
    (
        "copy_resumed",
        "Data of volumes that arrived, which an earlier call had received already",
        Some(Unit::Bytes),
        |all| all.resumed_bytes.get(),
    ),
    ("copies_received", "Volumes that have arrived whole on this host", None, |all| all.arrived.get()),
    ("copy_reconnects", "Connections to other hosts that broke and were made anew", None, |all| {
        all.reconnects.get()
    }),
    ("copy_corrupt_chunks", "Chunks that arrived with a wrong hash", None, |all| all.corrupt_chunks.get()),
];

impl Collector for Ends {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (all, encoder) = (&*self.0, &mut encoder);
        gauge(encoder, "copies_receiving", "Volumes that arrive now", all.receiving.get())?;
        gauge(encoder, "copies_sending", "Volumes that other hosts fetch now", all.sending.get())?;
        for (name, help, unit, read) in &COUNTERS {
            counter(encoder, name, help, unit.as_ref(), read(all))?;
        }
        let help = "Calls for a volume that ended before it was whole";
        by_reason(encoder, "copies_broken_off", help, all.failures())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> fmt::Result {
    let family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    ConstCounter::new(value).encode(family)
}

fn by_reason(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut family: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (reason, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&[("reason", reason)])?)?;
    }
    Ok(())
}
