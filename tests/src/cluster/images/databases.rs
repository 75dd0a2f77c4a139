//! Images of databases: PostgreSQL from what Debian has installed here, Cassandra from its jars and Java 17. Packed once
//! into the cache, and again when what they are made of has changed.
//!
//! They take the environment variables that the databases' usual images take, as far as the tests need them.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use super::oci::{Start, pack};
use super::rootfs::Rootfs;
use super::{Image, import};
use crate::cluster::Layout;
use crate::harness::{Step, binaries};
use crate::workloads::cassandra::{Jars, LOGBACK, java_options};
use crate::workloads::postgres::Installation;

/// Apache Cassandra with `nodetool`.
pub const CASSANDRA: &str = "cassandra:stillpoint";
/// PostgreSQL with `psql` and `pg_amcheck`.
pub const POSTGRESQL: &str = "postgresql:stillpoint";

/// The user of both.
const USER: &str = "999";
const POSTGRESQL_PROGRAMS: &[&str] =
    &["postgres", "initdb", "psql", "pg_ctl", "pg_isready", "pg_amcheck", "pg_checksums", "pg_controldata"];
const JAVA: &str = "/usr/lib/jvm";
/// Large parts of Java that no server uses.
const JAVA_SPARE: &[&str] = &["lib/ct.sym", "lib/src.zip", "lib/server/classes_nocoops.jsa"];
/// What native code that is inside of jars may be linked with.
const NATIVE_LIBRARIES: &[&str] = &["libdl.so.2", "libpthread.so.0", "librt.so.1", "libm.so.6"];

/// Packs both unless they are in the cache, and imports them into the nodes.
pub fn load(layout: &Layout) -> Result<()> {
    let images = packed(layout)?;
    let step = Step::begin("importing the images of the databases into the nodes");
    for image in &images {
        step.detail(&image.name);
        import(layout, image)?;
    }
    step.done();
    Ok(())
}

/// Both images, packed now or before.
fn packed(layout: &Layout) -> Result<[Image; 2]> {
    let into = layout.cache("images")?;
    // Clusters beside each other share the cache.
    let lock = into.join("databases.lock");
    let file = File::create(&lock).with_context(|| format!("cannot open {}", lock.display()))?;
    let _lock = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| anyhow::anyhow!("cannot lock {}: {errno}", lock.display()))?;
    let postgresql = Recipe::postgresql(layout)?;
    let cassandra = Recipe::cassandra(layout)?;
    Ok([postgresql.image(&into)?, cassandra.image(&into)?])
}

/// Puts an image's files together.
type Fill = Box<dyn Fn(&Rootfs) -> Result<()>>;

/// How an image is made, and what it depends on.
struct Recipe {
    name: &'static str,
    /// Everything that makes another image when it changes.
    stamp: String,
    start: Start,
    fill: Fill,
}

impl Recipe {
    fn postgresql(layout: &Layout) -> Result<Self> {
        let installation = Installation::find()?;
        let server = installation.tool("postgres");
        let home = server.parent().and_then(Path::parent).context("bin is below a version")?.to_path_buf();
        let version = home.file_name().context("a version has a name")?.to_string_lossy().into_owned();
        let entrypoint = recipe_file("postgresql/entrypoint")?;
        let busybox = layout.debian().join("bin/busybox");
        let stamp = [entrypoint.clone(), POSTGRESQL_PROGRAMS.join(" "), identity(&server)?].join("\n");
        let path = format!("PATH={}/bin:/usr/bin", home.display());
        let fill =
            Box::new(move |rootfs: &Rootfs| postgresql(rootfs, &home, &version, &entrypoint, &busybox));
        let environment = vec![path, "PGDATA=/var/lib/postgresql/data/pgdata".into(), "TZ=UTC".into()];
        let start = Start { entrypoint: vec!["/usr/bin/entrypoint".into()], environment, user: USER.into() };
        Ok(Self { name: POSTGRESQL, stamp, start, fill })
    }

    fn cassandra(layout: &Layout) -> Result<Self> {
        let java = java_17()?;
        let (entrypoint, nodetool) =
            (recipe_file("cassandra/entrypoint")?, recipe_file("cassandra/nodetool")?);
        let options = java_options(Path::new("/opt/cassandra"), Path::new("/tmp"));
        let busybox = layout.debian().join("bin/busybox");
        let pom = fs::read_to_string(binaries::source_directory().join("cassandra/pom.xml"))?;
        let modules = identity(&java.join("lib/modules"))?;
        let stamp =
            [&entrypoint, &nodetool, &options, LOGBACK, &pom, &modules].map(|part: &str| part).join("\n");
        let path = format!("PATH={}/bin:/usr/bin", java.display());
        let fill = Box::new(move |rootfs: &Rootfs| {
            rootfs.text("/opt/cassandra/logback.xml", LOGBACK, 0o644)?;
            rootfs.text("/opt/cassandra/java.options", &options, 0o644)?;
            rootfs.text("/usr/bin/entrypoint", &entrypoint, 0o755)?;
            rootfs.text("/usr/bin/nodetool", &nodetool, 0o755)?;
            cassandra(rootfs, &java, &busybox)
        });
        let start = Start {
            entrypoint: vec!["/usr/bin/entrypoint".into()],
            environment: vec![path],
            user: USER.into(),
        };
        Ok(Self { name: CASSANDRA, stamp, start, fill })
    }

    /// From the cache, else packed now.
    fn image(&self, into: &Path) -> Result<Image> {
        let stem = self.name.replace(':', "_");
        let (archive, stamp) = (into.join(format!("{stem}.tar")), into.join(format!("{stem}.stamp")));
        // How it is put together is in this module.
        let depends_on = format!("{}\n{}", self.stamp, include_str!("databases.rs"));
        // The first line is the digest of what was packed.
        let kept = fs::read_to_string(&stamp).unwrap_or_default();
        let kept = kept.split_once('\n').filter(|(_, depends)| archive.is_file() && *depends == depends_on);
        if let Some((digest, _)) = kept {
            return Ok(Image { name: self.name.into(), archive, digest: digest.into() });
        }
        let packing = Step::begin(format!("packing {} (once)", self.name));
        let rootfs = Rootfs::new(into.join(format!("{stem}.root")))?;
        let user = format!("database:x:{USER}:{USER}:database:/tmp:/bin/sh\n");
        rootfs.text("/etc/passwd", &format!("root:x:0:0:root:/root:/bin/sh\n{user}"), 0o644)?;
        rootfs.text("/etc/group", &format!("root:x:0:\ndatabase:x:{USER}:\n"), 0o644)?;
        (self.fill)(&rootfs)?;
        let image = pack(self.name, rootfs.path(), &self.start, into)?;
        fs::remove_dir_all(rootfs.path())?;
        fs::write(&stamp, format!("{}\n{depends_on}", image.digest))?;
        packing.done_with(&format!("{} MiB", fs::metadata(&image.archive)?.len() >> 20));
        Ok(image)
    }
}

fn postgresql(rootfs: &Rootfs, home: &Path, version: &str, entrypoint: &str, busybox: &Path) -> Result<()> {
    for program in POSTGRESQL_PROGRAMS {
        let path = home.join("bin").join(program);
        rootfs.file(&path, &path.display().to_string())?;
        rootfs.libraries(&path)?;
    }
    for entry in fs::read_dir(home.join("lib"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Just-in-time compilation would bring a compiler of 100 MiB along.
        if path.is_file() && !name.starts_with("llvmjit") {
            rootfs.file(&path, &path.display().to_string())?;
            rootfs.libraries(&path)?;
        }
    }
    rootfs.tree(&Path::new("/usr/share/postgresql").join(version))?;
    rootfs.text("/usr/bin/entrypoint", entrypoint, 0o755)?;
    let sockets = rootfs.path().join("var/run/postgresql");
    fs::create_dir_all(&sockets)?;
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o1777))?;
    rootfs.busybox(busybox)
}

fn cassandra(rootfs: &Rootfs, java: &Path, busybox: &Path) -> Result<()> {
    for part in ["lib", "conf"] {
        rootfs.tree(&java.join(part))?;
    }
    for spare in JAVA_SPARE {
        let path = java.join(spare);
        let path = rootfs.path().join(path.strip_prefix("/")?);
        // Links that lead nowhere are there too.
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path)?;
        }
    }
    // Debian keeps Java's configuration there and links to it.
    rootfs.tree(Path::new("/etc/java-17-openjdk"))?;
    let program = java.join("bin/java");
    rootfs.file(&program, &program.display().to_string())?;
    let server = java.join("lib/server/libjvm.so");
    for of in [&program, &server] {
        rootfs.libraries(of)?;
    }
    let directory = library_directory(&server)?;
    for library in NATIVE_LIBRARIES {
        let path = directory.join(library);
        rootfs.file(&path, &path.display().to_string())?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for jar in runtime.block_on(Jars::fetch("cassandra"))?.files()? {
        let name = jar.file_name().context("a jar has a name")?.to_string_lossy().into_owned();
        rootfs.file(&jar, &format!("/opt/cassandra/lib/{name}"))?;
    }
    fs::create_dir_all(rootfs.path().join("var/lib/cassandra"))?;
    // It asks for names as Java does, which busybox does not.
    rootfs.program("getent")?;
    rootfs.busybox(busybox)
}

/// Where the C library of this machine is.
fn library_directory(of: &Path) -> Result<PathBuf> {
    let needed = super::rootfs::needed(of)?;
    let libc = needed.iter().find(|path| path.ends_with("libc.so.6"));
    Ok(libc.and_then(|path| path.parent()).context("Java does not load a C library")?.to_path_buf())
}

/// Cassandra 5 runs on Java 11 and 17.
fn java_17() -> Result<PathBuf> {
    let homes = fs::read_dir(JAVA).with_context(|| format!("no Java below {JAVA}; run: make setup"))?;
    let found = homes.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("java-17-openjdk-") && path.join("bin/java").is_file()
    });
    found.with_context(|| format!("no java-17-openjdk below {JAVA}; run: make setup"))
}

fn recipe_file(name: &str) -> Result<String> {
    let path = binaries::source_directory().join("images").join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(!text.is_empty(), "{} is empty", path.display());
    Ok(text)
}

/// By what an update of a file is noticed.
fn identity(file: &Path) -> Result<String> {
    let of = fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?;
    Ok(format!("{} {} {}", file.display(), of.len(), of.mtime()))
}
