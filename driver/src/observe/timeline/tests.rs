use super::findings::{Barrier, barrier, sentences};
use super::sample::{lane, picture, serial, sessions};
use super::*;

const HOSTILE: &str = "<script>alert('x')</script>&\"\u{202e}\x1b[2J";

fn hostile() -> Picture {
    let mut picture = picture();
    picture.name = HOSTILE.into();
    picture.reasons = vec![HOSTILE.into()];
    picture.timeline.hosts[0].volumes[0].name = HOSTILE.into();
    let pod = &mut picture.pods[0];
    pod.pod = HOSTILE.into();
    pod.host = HOSTILE.into();
    let command = &mut pod.commands[0];
    command.command = HOSTILE.into();
    command.step = HOSTILE.into();
    command.failure = HOSTILE.into();
    picture
}

/// Every `<tag` in the page that is not one of ours.
fn foreign_tags(page: &str) -> Vec<&str> {
    const OURS: [&str; 34] = [
        "!doctype", "html", "meta", "title", "style", "main", "h1", "span", "p", "div", "b", "ul", "li", "i",
        "svg", "rect", "text", "line", "polygon", "details", "summary", "table", "tr", "th", "td", "footer",
        "/svg", "/rect", "/text", "/title", "/style", "/main", "/html", "/i",
    ];
    page.split('<')
        .skip(1)
        .map(|rest| rest.split([' ', '>', '/']).find(|word| !word.is_empty()).unwrap_or(""))
        .filter(|tag| !OURS.contains(tag) && !OURS.contains(&tag.trim_start_matches('/')))
        .collect()
}

#[test]
fn every_renderer_shows_every_host_volume_pod_and_figure() {
    let picture = picture();
    let (text, page) = (text::render(&picture), html::render(&picture));
    let value = json::render(&picture);
    for lane in picture.lanes() {
        assert!(text.contains(&lane.name) && page.contains(&lane.name), "{}", lane.name);
    }
    for shown in [
        "node-1",
        "node-3",
        "cassandra-2",
        "19.4 ms",
        "840 µs",
        "18.9 ms",
        "nodetool flush",
        "1.52 s",
        "±160 µs",
    ] {
        assert!(text.contains(shown), "{shown} in\n{text}");
        assert!(page.contains(shown), "{shown}");
    }
    assert_eq!(value["windowUs"], 19_460);
    assert_eq!(value["heldTogether"], true);
    assert_eq!(value["hosts"].as_array().unwrap().len(), 3);
    assert_eq!(value["pods"][3]["commands"][1]["moment"], "after");
}

#[test]
fn each_volume_has_a_bar_for_each_phase_with_its_figures_as_tooltip() {
    let picture = picture();
    let page = html::render(&picture);
    for lane in picture.lanes() {
        for span in &lane.spans {
            let tooltip = format!("{} of {}:", phase_name(span.phase), lane.name);
            assert!(page.contains(&tooltip), "{tooltip}");
        }
    }
    assert!(page.contains("all held") && page.contains("all cut") && page.contains("all released"));
}

#[test]
fn hostile_names_stay_text() {
    let picture = hostile();
    let page = html::render(&picture);
    assert_eq!(foreign_tags(&page), Vec::<&str>::new());
    assert!(!page.contains("<script") && !page.contains("alert('x')"));
    assert!(!page.contains('\u{202e}') && !page.contains('\x1b'));
    let text = text::render(&picture);
    assert!(!text.contains('\x1b') && !text.contains('\u{202e}'), "{text}");
}

#[test]
fn the_page_is_one_file_without_script_or_anything_from_elsewhere() {
    let page = html::render(&picture());
    assert!(
        !page.contains("<script")
            && !page.contains("<link")
            && !page.contains("<img")
            && !page.contains("url(")
    );
    assert_eq!(page.matches("http").count(), 2, "the SVG namespace and http-equiv only");
}

#[test]
fn a_barrier_that_held_is_proven_and_said() {
    let picture = picture();
    assert_eq!(barrier(&picture), Barrier::Proven { all_held_us: 9_270, all_cut_us: 16_820 });
    assert!(sentences(&picture)[0].contains("held together"), "{:?}", sentences(&picture));
}

#[test]
fn volumes_cut_one_after_another_are_said_not_to_be_held_together() {
    let picture = serial();
    assert_eq!(barrier(&picture), Barrier::Broken);
    assert!(sentences(&picture)[0].contains("NOT held together"), "{:?}", sentences(&picture));
    assert!(sentences(&picture)[1].contains("one after another"), "{:?}", sentences(&picture));
    assert!(!html::render(&picture).contains("all held"));
    assert_eq!(json::render(&picture)["heldTogether"], false);
}

#[test]
fn one_release_before_the_last_cut_breaks_the_barrier() {
    let mut picture = picture();
    let thaw = picture.timeline.hosts[2].volumes[0].spans.last_mut().unwrap();
    thaw.start_us = 9_000;
    assert_eq!(barrier(&picture), Barrier::Broken);
}

#[test]
fn an_order_that_the_clocks_cannot_tell_is_not_called_broken() {
    let mut picture = picture();
    let tolerance = i64::try_from(picture.clock_error_us()).unwrap() * 2;
    let all_held = picture.spans(Phase::Freeze).map(|s| s.end_us).max().unwrap();
    let cut = &mut picture.timeline.hosts[0].volumes[0].spans[2];
    cut.start_us = all_held - tolerance;
    assert!(matches!(barrier(&picture), Barrier::Proven { .. }));
    picture.timeline.hosts[0].volumes[0].spans[2].start_us -= 1;
    assert_eq!(barrier(&picture), Barrier::Broken);
}

#[test]
fn a_failed_command_is_shown_as_failed() {
    let mut picture = picture();
    picture.pods[1].commands[0].failure = "exit code 7".into();
    let page = html::render(&picture);
    assert!(page.contains("class=\"failed\"") && page.contains("exit code 7"));
    assert!(text::render(&picture).contains("exit code 7"));
    assert!(sentences(&picture).iter().any(|s| s.contains("1 FAILED")));
}

#[test]
fn a_record_without_a_timeline_says_so() {
    let mut picture = picture();
    picture.timeline = Timeline::default();
    picture.pods.clear();
    assert!(text::render(&picture).contains("no recorded timeline"));
    assert!(html::render(&picture).contains("no recorded timeline"));
}

#[test]
fn absurd_instants_do_not_break_the_drawing() {
    let mut picture = picture();
    picture.timeline.hosts[0].volumes[0] = lane(
        "absurd",
        &[(Phase::Freeze, i64::MIN, i64::MAX), (Phase::Cut, 5, -5), (Phase::Thaw, i64::MAX, i64::MIN)],
    );
    picture.timeline.window_us = u64::MAX;
    let page = html::render(&picture);
    assert!(!page.contains("NaN") && !page.contains("inf"), "coordinates are numbers");
    let _ = text::render(&picture);
}

#[test]
fn sessions_have_a_tick_when_they_are_taken_and_when_they_are_lost_and_their_skew_is_shown() {
    let picture = sessions();
    let (text, page) = (text::render(&picture), html::render(&picture));
    assert!(
        text.contains("−900 µs") && text.contains("−260 µs") && text.contains("LOST: it ended"),
        "{text}"
    );
    assert_eq!((page.matches("class=\"taken\"").count(), page.matches("class=\"lost\"").count()), (2, 1));
    assert!(
        page.contains("the session said that it holds at −260 µs")
            && page.contains("skew between first and last session")
    );
    assert!(
        page.contains("<i class=hold>")
            && page.contains("<i class=taken>")
            && page.contains("<i class=lost>")
    );
    let said = sentences(&picture).join("\n");
    assert!(
        said.contains("2 sessions taken, 640 µs between the first and the last")
            && said.contains("LOST: cassandra-1"),
        "{said}"
    );
    let value = json::render(&picture);
    assert_eq!(
        (&value["sessionSkewUs"], &value["pods"][0]["commands"][1]["held_us"]),
        (&640.into(), &(-900).into())
    );
    assert!(
        !html::render(&super::sample::picture()).contains("class=taken"),
        "nothing of it where there are none"
    );
}
