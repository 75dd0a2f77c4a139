//! The table of the CSI contract against the specification's own module, which Go downloads.

#![allow(clippy::unwrap_used)]

#[path = "../../csi-proto/tests/contract/table.rs"]
mod table;

use protox::prost_reflect::DescriptorPool;
use stillpoint_tests::harness::{Lack, go, skip};
use table::{assert_same, contract, marked_secret, ours, table};

#[test]
fn the_table_is_what_the_specifications_own_module_says() {
    let go = match go::find() {
        Ok(go) => go,
        Err(error) => return skip("the module of the CSI specification", Lack::Tool(format!("{error:#}"))),
    };
    let path = go::module(&go, "github.com/container-storage-interface/spec", "v1.13.0").unwrap();
    let mut compiler = protox::Compiler::new([path]).unwrap();
    compiler.include_imports(true).open_file("csi.proto").unwrap();
    let theirs = DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap();
    assert_same(&table(), &contract(&theirs), "contract.txt against the specification's module");
    assert_same(&marked_secret(&ours()), &marked_secret(&theirs), "secrets");
}
