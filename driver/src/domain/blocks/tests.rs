#![allow(clippy::single_range_in_vec_init, reason = "a list with one range in it is what is meant")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn extent(block: u64, blocks: u64, backing: Backing) -> Extent {
    Extent { logical: block * BLOCK, length: blocks * BLOCK, backing }
}

fn at(block: u64) -> Backing {
    Backing::At(block * BLOCK)
}

/// Ranges in blocks, joined.
fn joined(stretches: Vec<Range<u64>>, start: u64, size: u64) -> Vec<Range<u64>> {
    let mut joiner = Joiner::new(start, size);
    let mut ranges: Vec<_> = stretches.into_iter().filter_map(|stretch| joiner.push(stretch)).collect();
    ranges.extend(joiner.finish());
    ranges
}

#[test]
fn the_table_of_backings_says_when_two_blocks_are_the_same() {
    let all = [at(1), at(2), Backing::Zeros, Backing::Unsure];
    for one in all {
        for two in all {
            let same = one == two && one != Backing::Unsure;
            assert_eq!(one.proves_equal_to(two), same, "{one:?} {two:?}");
        }
    }
}

#[test]
fn an_address_is_compared_at_the_same_offset_within_extents_that_begin_elsewhere() {
    let whole = [extent(0, 8, at(100))];
    let parts = [extent(0, 3, at(100)), extent(3, 1, at(500)), extent(4, 4, at(104))];
    let differ = changed(&whole, &parts, 0..8 * BLOCK);
    assert_eq!(differ, [3 * BLOCK..4 * BLOCK]);
}

#[test]
fn holes_and_blocks_that_were_never_written_are_the_same_and_data_against_them_is_a_change() {
    let base = [extent(0, 2, Backing::Zeros), extent(4, 1, at(9))];
    let target = [extent(3, 1, at(7)), extent(5, 1, Backing::Zeros)];
    let differ = joined(changed(&base, &target, 0..8 * BLOCK), 0, 8 * BLOCK);
    assert_eq!(differ, [3 * BLOCK..5 * BLOCK], "a new block, and one that became a hole");
}

#[test]
fn what_has_no_address_is_always_changed() {
    let same = [extent(2, 1, Backing::Unsure)];
    assert_eq!(changed(&same, &same, 0..4 * BLOCK), [2 * BLOCK..3 * BLOCK]);
    assert_eq!(allocated(&same, 0..4 * BLOCK), [2 * BLOCK..3 * BLOCK], "and it is data");
}

#[test]
fn joined_ranges_are_whole_blocks_within_the_image_and_never_touch() {
    let stretches = vec![10..20, 4000..5000, 8192..9000, 5 * BLOCK..u64::MAX];
    assert_eq!(joined(stretches.clone(), 0, 6 * BLOCK + 5), [0..3 * BLOCK, 5 * BLOCK..6 * BLOCK + 5]);
    assert_eq!(joined(stretches, 2 * BLOCK + 1, 5 * BLOCK), [2 * BLOCK..3 * BLOCK], "the start's own block");
}

/// An image as a table of blocks: content is told by the address alone.
fn arbitrary_image() -> impl Strategy<Value = BTreeMap<u64, Option<u64>>> {
    proptest::collection::btree_map(0_u64..64, proptest::option::weighted(0.8, 0_u64..48), 0..48)
}

fn extents_of(image: &BTreeMap<u64, Option<u64>>, merge: bool) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for (block, address) in image {
        let backing = address.map_or(Backing::Zeros, at);
        match extents.last_mut() {
            Some(last)
                if merge && last.end() == block * BLOCK && last.backing.after(last.length) == backing =>
            {
                last.length += BLOCK;
            }
            _ => extents.push(extent(*block, 1, backing)),
        }
    }
    extents
}

proptest! {
    #[test]
    fn a_diff_finds_just_the_blocks_that_do_not_share(
        base in arbitrary_image(), target in arbitrary_image(), merge: bool, start in 0_u64..70, size in 1_u64..70,
    ) {
        let part = start * BLOCK..size * BLOCK;
        let ranges = joined(
            changed(&extents_of(&base, merge), &extents_of(&target, !merge), part.clone()), part.start, part.end,
        );
        let given = |block: u64| ranges.iter().any(|range| range.contains(&(block * BLOCK)));
        for block in 0..80 {
            let in_base = base.get(&block).copied().flatten();
            let differs = in_base != target.get(&block).copied().flatten();
            let asked_for = block >= start && block < size;
            prop_assert_eq!(given(block), differs && asked_for, "block {}", block);
        }
        prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", ranges);
    }

    #[test]
    fn pages_of_any_size_give_the_same_ranges(image in arbitrary_image(), other in arbitrary_image(), page in 1_u64..9) {
        let (base, target, size) = (extents_of(&image, true), extents_of(&other, true), 64 * BLOCK);
        let whole = joined(changed(&base, &target, 0..size), 0, size);
        let mut joiner = Joiner::new(0, size);
        let mut paged = Vec::new();
        for start in (0..64).step_by(usize::try_from(page).unwrap()) {
            let part = start * BLOCK..((start + page) * BLOCK).min(size);
            paged.extend(changed(&base, &target, part).into_iter().filter_map(|stretch| joiner.push(stretch)));
        }
        paged.extend(joiner.finish());
        prop_assert_eq!(paged, whole);
    }
}
