//! Files and command line of one node.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Jars;
use crate::harness::{Spec, net};

/// Nodes of the ring.
pub const NODES: usize = 3;
/// One token per node, evenly spaced: with three copies of every row nothing finer is needed.
const TOKENS: [i64; NODES] =
    [-9_223_372_036_854_775_808, -3_074_457_345_618_258_603, 3_074_457_345_618_258_602];

/// Packages of the JDK that Cassandra 5 reaches into on Java 17.
const EXPORTS: &[&str] = &[
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.rmi/sun.rmi.transport.tcp",
    "java.sql/java.sql",
];
const OPENS: &[&str] = &[
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "java.rmi/sun.rmi.transport.tcp",
    "jdk.management/com.sun.management.internal",
];

/// Everything to standard output.
pub const LOGBACK: &str = r#"<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5level %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"#;

/// Addresses and ports of a ring, the same for the original and for the restored one.
#[derive(Debug, Clone)]
pub struct Layout {
    pub(super) directory: PathBuf,
    pub(super) jars: Jars,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) cql_port: u16,
    storage_port: u16,
    jmx_ports: Vec<u16>,
}

impl Layout {
    /// Chooses addresses; configuration and tools of the nodes will be below `directory`.
    pub fn new(directory: PathBuf, jars: Jars) -> Result<Self> {
        let addresses = net::own_addresses(NODES as u8);
        let cql_port = net::free_port_on_all(&addresses)?;
        let storage_port = net::free_port_on_all(&addresses)?;
        let jmx_ports = (0..NODES).map(|_| Ok(net::free_address()?.port())).collect::<Result<Vec<_>>>()?;
        let layout = Self { directory, jars, addresses, cql_port, storage_port, jmx_ports };
        for node in 0..NODES {
            layout.write_tools(node)?;
        }
        Ok(layout)
    }

    /// Directory with this node's `nodetool`: what its pod has in its `PATH`.
    pub fn tools(&self, node: usize) -> PathBuf {
        self.home(node).join("bin")
    }

    /// Where a node finds its volume, the original and the restored one alike, as two pods of one StatefulSet would.
    /// Cassandra's transaction logs name files by absolute path: restored elsewhere, it would clean up at the path of
    /// the original and fail over what it then still finds at its own.
    pub(super) fn seat(&self, node: usize) -> Result<PathBuf> {
        let seat = self.home(node).join("data");
        fs::create_dir_all(&seat).with_context(|| format!("cannot make {}", seat.display()))?;
        Ok(seat)
    }

    fn home(&self, node: usize) -> PathBuf {
        self.directory.join(format!("node-{node}"))
    }

    fn write_tools(&self, node: usize) -> Result<()> {
        let home = self.home(node);
        fs::create_dir_all(home.join("bin"))?;
        write(&home.join("logback.xml"), LOGBACK)?;
        write(&home.join("java.options"), &java_options(&home, &home))?;
        let nodetool = home.join("bin/nodetool");
        let script = format!(
            "#!/bin/sh\nexec java @{home}/java.options -Xmx64m -XX:+UseSerialGC \
             -Dcassandra.storagedir={home} -cp '{jars}' org.apache.cassandra.tools.NodeTool -p {port} \"$@\"\n",
            home = home.display(),
            jars = self.jars.class_path(),
            port = self.jmx_ports[node],
        );
        write(&nodetool, &script)?;
        fs::set_permissions(&nodetool, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Command line of a node whose data is at `volume`.
    pub(super) fn spec(&self, node: usize, volume: &Path, label: &str) -> Result<Spec> {
        let home = self.home(node);
        let yaml = home.join("cassandra.yaml");
        write(&yaml, &self.configuration(node, volume))?;
        Ok(Spec::new(format!("{label}-{node}"), "java")
            .arg(format!("@{}/java.options", home.display()))
            .args(["-Xms512m", "-Xmx512m", "-Xss384k", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError"])
            .arg(format!("-Dcassandra.config=file://{}", yaml.display()))
            .arg(format!("-Dcassandra.storagedir={}", volume.display()))
            .arg(format!("-Dcassandra.jmx.local.port={}", self.jmx_ports[node]))
            // The ring is small and quiet: nobody is waited for by the clock.
            .args(["-Dcassandra.ring_delay_ms=2000", "-Dcassandra.skip_wait_for_gossip_to_settle=0"])
            .args(["-Dcassandra.superuser_setup_delay_ms=0", "-Dcassandra.libjemalloc=-"])
            .args(["-cp", &self.jars.class_path(), "org.apache.cassandra.service.CassandraDaemon"]))
    }

    /// Nobody waits for anybody: a node of the restored ring is the first to come back, and would otherwise
    /// look ten seconds for peers that are started after it.
    fn configuration(&self, node: usize, volume: &Path) -> String {
        format!(
            "cluster_name: stillpoint-demo\n\
             partitioner: org.apache.cassandra.dht.Murmur3Partitioner\n\
             endpoint_snitch: SimpleSnitch\n\
             num_tokens: 1\n\
             initial_token: '{token}'\n\
             auto_bootstrap: false\n\
             block_for_peers_timeout_in_secs: -1\n\
             seed_provider:\n\
             - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n  \
               parameters: [{{seeds: '{seed}'}}]\n\
             listen_address: {address}\n\
             rpc_address: {address}\n\
             storage_port: {storage_port}\n\
             native_transport_port: {cql_port}\n\
             data_file_directories: [{volume}/data]\n\
             commitlog_directory: {volume}/commitlog\n\
             saved_caches_directory: {volume}/saved_caches\n\
             hints_directory: {volume}/hints\n\
             cdc_raw_directory: {volume}/cdc_raw\n\
             commitlog_sync: periodic\n\
             commitlog_sync_period: 1000ms\n\
             commitlog_segment_size: 8MiB\n\
             commitlog_total_space: 128MiB\n\
             disk_failure_policy: die\n\
             commit_failure_policy: die\n\
             memtable_heap_space: 64MiB\n\
             memtable_offheap_space: 64MiB\n\
             networking_cache_size: 32MiB\n\
             file_cache_size: 32MiB\n\
             key_cache_size: 8MiB\n\
             counter_cache_size: 0MiB\n\
             concurrent_reads: 8\n\
             concurrent_writes: 8\n\
             concurrent_compactors: 1\n\
             read_request_timeout: 15s\n\
             range_request_timeout: 15s\n\
             write_request_timeout: 15s\n",
            token = TOKENS[node],
            seed = self.addresses[0],
            address = self.addresses[node],
            storage_port = self.storage_port,
            cql_port = self.cql_port,
            volume = volume.display(),
        )
    }
}

/// Java's options in a file, shared by the node and its tools. `home` has what [`LOGBACK`] says as `logback.xml`;
/// `scratch` can be written to.
pub fn java_options(home: &Path, scratch: &Path) -> String {
    let (home, scratch) = (home.display(), scratch.display());
    let mut lines = vec![
        format!("-Dlogback.configurationFile={home}/logback.xml"),
        format!("-Dcassandra.logdir={scratch}"),
        format!("-Djava.io.tmpdir={scratch}"),
        format!("-Duser.home={scratch}"),
        "-Djdk.attach.allowAttachSelf=true".into(),
        // Two cores: starting sooner is worth more than running faster.
        "-XX:TieredStopAtLevel=1".into(),
    ];
    lines.extend(EXPORTS.iter().map(|package| format!("--add-exports={package}=ALL-UNNAMED")));
    lines.extend(OPENS.iter().map(|package| format!("--add-opens={package}=ALL-UNNAMED")));
    lines.push(String::new());
    lines.join("\n")
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
