//! The pools of a host, looked at when somebody asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::agent::pool::{Pool, PoolSpace};
use crate::agent::pools::Pools;

struct Look {
    pools: Pools,
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").finish_non_exhaustive()
    }
}

pub(super) fn register(registry: &mut Registry, pools: Pools) {
    registry.register_collector(Box::new(Look { pools }));
}

/// Name, help, and how to read it.
type BytesOf = (&'static str, &'static str, fn(&Pool, &PoolSpace) -> u64);

const SPACE: [BytesOf; 7] = [
    ("pool_size", "Size of the pool's filesystem", |_, space| space.total.0),
    ("pool_used", "What is in use of it", |_, space| space.total.saturating_sub(space.free).0),
    (
        "pool_available",
        "What new volumes and snapshots may use: free space without the reserve",
        |_, space| space.available.0,
    ),
    ("pool_promised", "What is in use, and what the volumes may still come to need", |_, space| {
        space.promised.0
    }),
    (
        "pool_promise_limit",
        "The most that may be promised: the size without the reserve, times the overcommit factor",
        |_, space| space.limit.0,
    ),
    ("pool_reserve", "What stays free so that existing volumes can be overwritten", |_, space| {
        space.reserve.0
    }),
    ("pool_provisioned", "Capacities of all volumes together", |pool, _| pool.provisioned()),
];

type CountOf = (&'static str, &'static str, fn(&Pool) -> usize);

const COUNTS: [CountOf; 4] = [
    ("volumes", "Volumes of the pool", Pool::volume_count),
    ("snapshots", "Snapshots of the pool: members of sealed cuts", Pool::snapshot_count),
    ("pool_rounds", "Cuts of the pool that are neither sealed nor void", Pool::round_count),
    ("pool_trash", "Deleted trees that wait for the cleaner", Pool::trash_len),
];

impl Collector for Look {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A pool whose filesystem does not answer is left out, and so missed by whoever watches it.
        let with_space = |pool: Arc<Pool>| pool.space().ok().map(|space| (pool, space));
        let spaces: Vec<_> = self.pools.iter().filter_map(with_space).collect();
        for (name, help, read) in SPACE {
            let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?;
            for (pool, space) in &spaces {
                gauge(&mut family, pool, read(pool, space))?;
            }
        }
        for (name, help, read) in COUNTS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for pool in self.pools.iter() {
                gauge(&mut family, &pool, read(&pool) as u64)?;
            }
        }
        Ok(())
    }
}

fn gauge(
    family: &mut prometheus_client::encoding::MetricEncoder<'_>,
    pool: &Pool,
    value: u64,
) -> fmt::Result {
    let gauge = prometheus_client::metrics::gauge::ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    let labels = [("pool", pool.id().to_string())];
    gauge.encode(family.encode_family(&labels)?)
}
