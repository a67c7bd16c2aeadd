//! What a person types, from a bare machine to a picture.

mod common;

use common::{House, colours, eventually, signal, stderr, text};
use rustix::process::Signal;
use serde_json::Value;
use std::process::Stdio;

const QUICK: [&str; 4] = ["--steps", "2", "--scheduler", "ddim"];

fn generate<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    ["image", "generate"].iter().chain(arguments).chain(&QUICK).copied().collect()
}

#[test]
fn a_bare_machine_paints_a_picture() {
    let house = House::new();
    let output =
        house.rbee(&["image", "generate", "a red circle on a blue background", "--seed", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    // The path alone is on standard output; that a queen was started stands beside.
    assert_eq!(text(&output.stdout), "a-red-circle-on-a-blue-background-1.png\n");
    assert!(stderr(&output).contains("started a queen"), "{}", stderr(&output));
    assert!(stderr(&output).contains("denoising 20/20"), "{}", stderr(&output));

    let path = house.work().join("a-red-circle-on-a-blue-background-1.png");
    let (corner, middle) = colours(&path);
    assert!(corner[2] > corner[0] + 40.0 && corner[2] > corner[1] + 20.0, "the background is blue: {corner:?}");
    assert!(middle[0] > middle[1] + 40.0 && middle[0] > middle[2] + 40.0, "the middle is red: {middle:?}");

    let shown = house.run(&["image", "show", path.to_str().unwrap()]);
    assert!(shown.starts_with("a red circle on a blue background\n"), "{shown}");
    assert!(shown.contains("Steps: 20") && shown.contains("Seed: 1"), "{shown}");

    assert!(house.run(&["down"]).contains("stopped"));
    assert!(house.run(&["down"]).contains("no queen runs"));
}

#[test]
fn one_seed_repeats_and_nothing_is_overwritten() {
    let house = House::with_queen();
    for _ in 0..2 {
        house.run(&generate(&["a tree", "--seed", "3"]));
    }
    house.run(&generate(&["a tree", "--seed", "4"]));
    let names: Vec<String> =
        house.pictures().iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["a-tree-3-2.png", "a-tree-3.png", "a-tree-4.png"]);
    let read = |name: &str| std::fs::read(house.work().join(name)).unwrap();
    assert_eq!(read("a-tree-3.png"), read("a-tree-3-2.png"));
    assert_ne!(read("a-tree-3.png"), read("a-tree-4.png"));
}

#[test]
fn json_is_alone_on_standard_output() {
    let house = House::with_queen();
    let result: Value =
        serde_json::from_str(&house.run(&generate(&["x", "--seed", "9", "--count", "2", "--json"]))).unwrap();
    assert_eq!(result["seed"], 9);
    let files = result["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    assert_eq!(files[1]["seed"], 10);
    for file in files {
        assert!(std::fs::read(file["path"].as_str().unwrap()).unwrap().starts_with(b"\x89PNG"));
    }

    let lines = house.run(&generate(&["x", "--json=events", "--preview-every", "1"]));
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types[0], "queued");
    assert!(types.contains(&"preview"), "{types:?}");
    assert_eq!(types[types.len() - 2..], ["complete", "files"]);

    let output = house.rbee(&generate(&["x", "--width", "100", "--json"])).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["error"]["param"], "width");
}

#[test]
fn pictures_go_where_they_are_sent() {
    let house = House::with_queen();
    assert_eq!(house.run(&generate(&["x", "-o", "out.png"])), "out.png\n");
    std::fs::create_dir(house.work().join("many")).unwrap();
    let told = house.run(&generate(&["x", "-o", "many/{index}.png", "--count", "2"]));
    assert_eq!(told, "many/0.png\nmany/1.png\n");
    let piped = house.rbee(&generate(&["x", "-o", "-", "-q"])).output().unwrap();
    assert!(piped.stdout.starts_with(b"\x89PNG"));
    assert_eq!(stderr(&piped), "");
    assert_eq!(house.run(&generate(&["x", "-o", "new/", "--seed", "1"])), "new/x-1.png\n");
    let (code, said) = house.fail(&generate(&["x", "-o", "missing/out.png"]));
    assert_eq!(code, 2);
    assert!(said.contains("missing does not exist"), "{said}");
}

#[test]
fn an_image_is_transformed_and_a_part_of_it_painted_anew() {
    let house = House::with_queen();
    house.run(&["image", "generate", "a house", "--seed", "1", "-o", "house.png"]);
    // White in the left half; of another size than the image, to which it is scaled.
    let mask = image::RgbImage::from_fn(64, 64, |x, _| if x < 32 { image::Rgb([255; 3]) } else { image::Rgb([0; 3]) });
    mask.save(house.work().join("mask.png")).unwrap();
    house.run(&["image", "transform", "night", "--init-image", "house.png", "--steps", "4", "-o", "night.png"]);
    let inpaint = ["image", "inpaint", "a red circle", "--init-image", "house.png", "--mask-image", "mask.png"];
    house.run(&[&inpaint[..], &["--steps", "4", "-o", "part.png"]].concat());

    let read = |name: &str| image::open(house.work().join(name)).unwrap().into_rgb8();
    let (before, after) = (read("house.png"), read("part.png"));
    assert_eq!(before.dimensions(), after.dimensions());
    let changed = |xs: std::ops::Range<u32>| {
        xs.flat_map(|x| (0..128).map(move |y| (x, y)))
            .filter(|&(x, y)| before.get_pixel(x, y) != after.get_pixel(x, y))
            .count()
    };
    assert_eq!(changed(96..128), 0, "far from the mask nothing changes");
    assert!(changed(0..48) > 1000, "inside the mask it does");
    assert_ne!(read("night.png"), before);
}

#[test]
fn what_is_wrong_is_said_with_field_and_next_step() {
    let house = House::with_queen();
    let check = |arguments: &[&str], code: i32, parts: &[&str]| {
        let (got, said) = house.fail(arguments);
        assert_eq!(got, code, "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    };
    check(&["image", "generate", "x", "--width", "500"], 2, &["multiple of 8, got 500", "--width", "496"]);
    check(&["image", "generate", "x", "--scheduler", "magic"], 2, &["magic", "dpmpp_2m"]);
    check(&["image", "generate", "x", "--schedule", "karras", "--scheduler", "ddim"], 2, &["karras"]);
    check(&["image", "generate", "x", "--model", "sd-1.5"], 2, &["sd-1.5", "model", "folder"]);
    check(&["image", "generate", "x", "--model", "nonsense"], 2, &["nonsense", "tiny-scenes"]);
    check(&["image", "generate", "x", "--worker-id", "nobody"], 2, &["nobody", "worker_id"]);
    check(&["image", "generate", "x", "--hive-id", "elsewhere"], 2, &["elsewhere", "localhost"]);
    check(&["image", "generate"], 2, &["PROMPT"]);
    check(&["image", "transform", "x", "--init-image", "none.png"], 2, &["none.png", "--init-image"]);
    std::fs::write(house.work().join("text.png"), "no picture").unwrap();
    check(&["image", "transform", "x", "--init-image", "text.png"], 2, &["init_image is not a PNG, JPEG or WebP"]);
    check(&["job", "show", "job-none"], 2, &["job-none"]);
    assert!(house.pictures().iter().all(|path| path.ends_with("text.png")), "nothing half written stays");
    // The queen is well all the same.
    house.run(&generate(&["x", "-o", "after.png"]));
}

#[test]
fn ctrl_c_cancels_the_job() {
    let house = House::with_queen();
    let mut command = house.rbee(&["image", "generate", "x", "--steps", "150", "--count", "64", "--scheduler", "ddim"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the job runs", || house.run(&["job", "list", "--state", "running"]).contains("job-").then_some(()));
    signal(child.id() as i32, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("was cancelled"), "{}", stderr(&output));
    assert!(house.run(&["job", "list", "--state", "cancelled"]).contains("job-"));
    assert_eq!(house.pictures(), [] as [std::path::PathBuf; 0]);
}

#[test]
fn a_reader_that_goes_away_cancels_the_job() {
    let house = House::with_queen();
    let slow = ["image", "generate", "x", "--steps", "150", "--count", "64", "--scheduler", "ddim", "--json=events"];
    let mut child = house.rbee(&slow).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    eventually("it is cancelled", || {
        house.run(&["job", "list", "--state", "cancelled"]).contains("job-").then_some(())
    });
}

#[test]
fn two_commands_at_once_start_one_queen() {
    let house = House::new();
    let children: Vec<_> =
        (0..3).map(|_| house.rbee(&["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).collect();
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    for output in &outputs {
        assert_eq!(text(&output.stdout).trim(), house.url(), "{}", stderr(output));
    }
    let started = outputs.iter().filter(|output| stderr(output).contains("started a queen")).count();
    assert_eq!(started, 1);
}

#[test]
fn a_taken_port_and_a_folder_that_cannot_be_written_are_said() {
    let house = House::new();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", house.port)).unwrap();
    let (code, said) = house.fail(&["up"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("cannot listen on 127.0.0.1") && said.contains("--queen-port"), "{said}");

    let file = house.work().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, said) = house.fail(&["up", "--data-dir", file.join("data").to_str().unwrap()]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("cannot write to") && said.contains("RBEE_DATA_DIR"), "{said}");

    let (code, said) = house.fail(&["image", "generate", "x", "--queen", "http://127.0.0.1:1"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("does not answer"), "{said}");
}
