//! Compiles `proto/csi.proto` with protox, so that no protoc is needed. Messages with a field that is marked
//! `csi_secret` get a `Debug` that leaves the field's content out: a log line cannot leak what it never sees.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("csi.proto")?;
    fs::write(out.join("csi.bin"), compiler.encode_file_descriptor_set())?;

    let pool = compiler.descriptor_pool();
    let keepers = secret_keepers(&pool)?;
    fs::write(out.join("redacted.rs"), redacted(&keepers)?)?;
    let paths = keepers.iter().map(|(message, _)| message.full_name().to_owned());
    tonic_prost_build::configure().skip_debug(paths).compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// Messages with secret fields, and those fields' names.
fn secret_keepers(pool: &DescriptorPool) -> Result<Vec<(MessageDescriptor, Vec<String>)>> {
    let marker = pool.get_extension_by_name("csi.v1.csi_secret").ok_or("csi.proto has no csi_secret")?;
    let secret = |field: &FieldDescriptor| field.options().has_extension(&marker);
    Ok(pool
        .all_messages()
        .map(|message| {
            let fields = message.fields().filter(secret).map(|field| field.name().to_owned()).collect();
            (message, fields)
        })
        .filter(|(_, fields): &(_, Vec<String>)| !fields.is_empty())
        .collect())
}

/// `Debug` of these messages. None of them is nested or has a oneof or a keyword as a field name.
fn redacted(keepers: &[(MessageDescriptor, Vec<String>)]) -> Result<String> {
    let mut code = String::new();
    for (message, secrets) in keepers {
        writeln!(code, "impl ::std::fmt::Debug for {} {{", message.name())?;
        writeln!(code, "fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {{")?;
        writeln!(code, "f.debug_struct({:?})", message.name())?;
        for field in message.fields() {
            let name = field.name();
            let value = if secrets.iter().any(|secret| secret == name) {
                format!("crate::Redacted(self.{name}.len())")
            } else {
                format!("self.{name}")
            };
            writeln!(code, ".field({name:?}, &{value})")?;
        }
        writeln!(code, ".finish()\n}}\n}}")?;
    }
    Ok(code)
}
