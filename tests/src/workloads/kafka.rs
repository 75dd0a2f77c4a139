//! A real Kafka: one broker that is its own controller, with its metadata on another volume than its records. It
//! acknowledges what is in the page cache.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::jars::Jars;
use super::load::{Checked, nothing_lost};
use super::place::Owner;
use crate::harness::{Lack, Process, Spec, binaries, net, process};

const OWNER: Owner = Owner::new(64_004);
const START_LIMIT: Duration = Duration::from_mins(2);
const STOP_LIMIT: Duration = Duration::from_mins(1);
const TOOL_LIMIT: Duration = Duration::from_mins(2);
const TOPIC: &str = "shop";
/// 22 characters of base64, any that are not all the same; the restored broker has it on its volumes.
const CLUSTER: &str = "c3RpbGxwb2ludC10ZXN0cw";
/// Records of each producer in a second.
const THROUGHPUT: &str = "300";
/// The producer is in the upper bits of an id.
const PRODUCER_SHIFT: u32 = 40;
const LOG4J: &str = "log4j.rootLogger=INFO, out\n\
    log4j.appender.out=org.apache.log4j.ConsoleAppender\n\
    log4j.appender.out.Target=System.err\n\
    log4j.appender.out.layout=org.apache.log4j.PatternLayout\n\
    log4j.appender.out.layout.ConversionPattern=%d{HH:mm:ss.SSS} %p %c{1} %m%n\n";

/// Why no server can be started here.
pub fn why_not() -> Option<Lack> {
    let tools = [("java", "openjdk-17-jre-headless"), ("mvn", "maven")];
    Lack::of_root().or_else(|| Lack::of_tools(binaries::require_tools(&tools)))
}

/// Mount points of the two volumes.
#[derive(Debug, Clone)]
pub struct Volumes {
    /// Volume of the records: `log.dirs`.
    pub records: PathBuf,
    /// Volume of the metadata: `metadata.log.dir`.
    pub metadata: PathBuf,
}

impl Volumes {
    /// `log.dirs`.
    pub fn records_directory(&self) -> PathBuf {
        self.records.join("records")
    }

    fn metadata_directory(&self) -> PathBuf {
        self.metadata.join("metadata")
    }
}

/// Java with Kafka's jars, as one command line that takes a class and its arguments.
#[derive(Debug, Clone)]
pub struct Java(Vec<String>);

impl Java {
    /// Fetches the jars unless they are there; `run` keeps its settings.
    pub async fn fetch(run: &Path) -> Result<Self> {
        let log4j = run.join("kafka-log4j.properties");
        fs::write(&log4j, LOG4J).with_context(|| format!("cannot write {}", log4j.display()))?;
        // Copied: the server's user may not be able to look into the directory of whoever has built this.
        let jars = run.join("kafka-jars");
        fs::create_dir_all(&jars)?;
        for jar in Jars::fetch("kafka").await?.files()? {
            let name = jar.file_name().context("a jar has a name")?;
            fs::copy(&jar, jars.join(name)).with_context(|| format!("cannot copy {}", jar.display()))?;
        }
        Ok(Self(vec![
            "-Xmx256m".into(),
            // Two cores: starting sooner is worth more than running faster.
            "-XX:TieredStopAtLevel=1".into(),
            "-XX:+UseSerialGC".into(),
            format!("-Dlog4j.configuration=file:{}", log4j.display()),
            "-cp".into(),
            format!("{}/*", jars.display()),
        ]))
    }

    fn spec(&self, name: &str, class: &str) -> Spec {
        Spec::new(name, "java").args(&self.0).arg(class)
    }

    async fn run(&self, user: Option<&str>, class: &str, arguments: &[&str]) -> Result<String> {
        let args = self.0.iter().map(String::as_str).chain([class]).chain(arguments.iter().copied());
        process::succeed(user, Path::new("java"), args, TOOL_LIMIT).await
    }
}

/// A running broker. Dropping it kills it.
#[derive(Debug)]
pub struct Kafka {
    java: Java,
    address: String,
    process: Process,
}

impl Kafka {
    /// Starts a broker on two volumes, empty or restored, and waits until it serves; what a crash left is looked through
    /// before.
    pub async fn start(java: &Java, name: &str, volumes: &Volumes, run: &Path) -> Result<Self> {
        for directory in [volumes.records_directory(), volumes.metadata_directory()] {
            OWNER.make(&directory)?;
        }
        let (address, controller) = (net::free_address()?.to_string(), net::free_address()?.to_string());
        let file = run.join(format!("{name}.properties"));
        fs::write(&file, properties(volumes, &address, &controller))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let file = file.display().to_string();
        if !volumes.records_directory().join("meta.properties").exists() {
            let user = OWNER.name();
            java.run(Some(&user), "kafka.tools.StorageTool", &["format", "-t", CLUSTER, "-c", &file]).await?;
        }
        let spec = java.spec(name, "kafka.Kafka").user(&OWNER.name()).arg(&file);
        let mut server = Self { java: java.clone(), address, process: spec.start(run)? };
        server.wait_ready().await?;
        Ok(server)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            self.process.check_alive()?;
            let log = fs::read_to_string(self.process.log()).unwrap_or_default();
            if log.contains("Kafka Server started") {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "Kafka does not start; its log ends with:\n{}",
                self.process.tail()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes the topic and starts so many producers, which wait for all replicas.
    pub async fn load(&self, producers: u64, run: &Path) -> Result<Load> {
        let make = ["--bootstrap-server", &self.address, "--create", "--topic", TOPIC, "--partitions", "1"];
        self.java
            .run(None, "org.apache.kafka.tools.TopicCommand", &make)
            .await
            .context("cannot make the topic")?;
        let mut load = Load { acknowledged: Arc::default(), producers: Vec::new() };
        for producer in 0..producers {
            let spec = self
                .java
                .spec(&format!("producer-{producer}"), "org.apache.kafka.tools.VerifiableProducer")
                .args(["--bootstrap-server", &self.address, "--topic", TOPIC, "--acks", "-1"])
                .args(["--throughput", THROUGHPUT, "--value-prefix", &producer.to_string()]);
            let mut process = spec.piped().start(run)?;
            let (_input, output) = process.pipes().context("its streams are pipes")?;
            let acknowledged = Arc::clone(&load.acknowledged);
            std::thread::spawn(move || listen(BufReader::new(output), &acknowledged));
            load.producers.push(process);
        }
        Ok(load)
    }

    /// Ids of all records of the topic, as a consumer reads them.
    async fn ids(&self) -> Result<HashSet<u64>> {
        let ask = ["--bootstrap-server", &self.address, "--topic-partitions", &format!("{TOPIC}:0")];
        let end = self.java.run(None, "org.apache.kafka.tools.GetOffsetShell", &ask).await?;
        let count = end.trim().rsplit(':').next().unwrap_or_default();
        ensure!(count.parse::<u64>().is_ok_and(|count| count > 0), "the topic is empty: {end}");
        let server = ["--bootstrap-server", self.address.as_str(), "--topic", TOPIC, "--partition", "0"];
        let what = ["--offset", "earliest", "--max-messages", count, "--timeout-ms", "60000"];
        let read = [&server[..], &what[..]].concat();
        let said = self.java.run(None, "org.apache.kafka.tools.consumer.ConsoleConsumer", &read).await?;
        said.lines()
            .map(|line| id(line).with_context(|| format!("{line:?} is none of our records")))
            .collect()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A clean shutdown.
    pub fn stop(mut self) -> Result<()> {
        self.process.stop(Signal::SIGTERM, STOP_LIMIT).context("Kafka does not end")
    }
}

fn properties(volumes: &Volumes, address: &str, controller: &str) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         listeners=BROKER://{address},CONTROLLER://{controller}\n\
         advertised.listeners=BROKER://{address}\n\
         listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         inter.broker.listener.name=BROKER\n\
         controller.listener.names=CONTROLLER\n\
         controller.quorum.voters=1@{controller}\n\
         log.dirs={records}\n\
         metadata.log.dir={metadata}\n\
         offsets.topic.replication.factor=1\n\
         auto.create.topics.enable=false\n",
        records = volumes.records_directory().display(),
        metadata = volumes.metadata_directory().display(),
    )
}

/// Producers that write until they are stopped, and what was acknowledged when.
#[derive(Debug)]
pub struct Load {
    acknowledged: Arc<Mutex<Vec<(Instant, u64)>>>,
    producers: Vec<Process>,
}

impl Load {
    /// Ids of what was known to be acknowledged before this instant.
    pub fn acknowledged_before(&self, instant: Instant) -> Vec<u64> {
        let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(when, _)| *when < instant).map(|(_, id)| *id).collect()
    }

    /// An error when a producer has ended: a load that has silently stopped proves nothing.
    pub fn check_alive(&mut self) -> Result<()> {
        self.producers.iter_mut().try_for_each(Process::check_alive)
    }

    /// Ends the producers; what was acknowledged.
    pub fn stop(mut self) -> Result<Vec<u64>> {
        self.producers.iter_mut().try_for_each(Process::kill)?;
        Ok(self.acknowledged_before(Instant::now()))
    }
}

/// A producer prints a line of JSON for every record that was acknowledged.
fn listen(output: impl BufRead, acknowledged: &Mutex<Vec<(Instant, u64)>>) {
    for line in output.lines().map_while(Result::ok) {
        let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
        if said["name"] == "producer_send_success"
            && let Some(id) = said["value"].as_str().and_then(id)
        {
            acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), id));
        }
    }
}

/// `<producer>.<serial>`
fn id(text: &str) -> Option<u64> {
    let (producer, serial) = text.split_once('.')?;
    Some(producer.parse::<u64>().ok()? << PRODUCER_SHIFT | serial.parse::<u64>().ok()?)
}

/// A broker starts on the restored pair, a consumer reads every record of `required`, and every batch of the files has the
/// checksum that it was written with (`DumpLogSegments`).
pub async fn check(java: &Java, volumes: &Volumes, required: &[u64], run: &Path) -> Result<Checked> {
    let server = Kafka::start(java, "kafka-restored", volumes, run)
        .await
        .context("Kafka does not start on the cut")?;
    let present = server.ids().await.context("the records cannot be read")?;
    server.stop()?;
    let checked = nothing_lost(required, &present)?;
    let segment = segment(volumes)?;
    let dump = ["--deep-iteration", "--files", &segment.display().to_string()];
    let said = java.run(None, "kafka.tools.DumpLogSegments", &dump).await?;
    let batches: Vec<&str> = said.lines().filter(|line| line.starts_with("baseOffset:")).collect();
    if let Some(bad) = batches.iter().find(|line| !line.contains("isvalid: true")) {
        bail!("a batch is damaged: {bad}");
    }
    ensure!(!batches.is_empty(), "the file has no batches: {said}");
    Ok(checked)
}

/// The file that records go to; the load is far too small for a second one.
pub fn segment(volumes: &Volumes) -> Result<PathBuf> {
    let file = volumes.records_directory().join(format!("{TOPIC}-0/00000000000000000000.log"));
    ensure!(file.is_file(), "there is no {}", file.display());
    Ok(file)
}
