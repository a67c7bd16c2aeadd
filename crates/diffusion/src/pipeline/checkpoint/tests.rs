use std::fs::File;
use std::io::Write;

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::Checkpoint;
use crate::models::{AutoencoderKlConfig, ClipTextConfig, UNetConfig};
use crate::pipeline::ModelSource;
use crate::samplers::SchedulerConfig;

const SD1: &str = "cond_stage_model.transformer.text_model.final_layer_norm.weight";
const SD2: &str = "cond_stage_model.model.ln_final.weight";
const SD2_AS_XL: &str = "conditioner.embedders.0.model.ln_final.weight";
const XL: [&str; 2] = [
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
    "conditioner.embedders.1.model.ln_final.weight",
];

/// A file with these tensors, of zeros.
fn file(tensors: &[(&str, &[usize])], metadata: &[(&str, &str)]) -> NamedTempFile {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), metadata.iter().map(|(key, text)| (*key, *text)).collect::<Value>());
    let mut end = 0;
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "F16", "shape": shape, "data_offsets": [begin, end]});
        header.insert((*name).to_owned(), entry);
    }
    let header = Value::from(header).to_string();
    let mut file = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(&vec![0; end]).unwrap();
    file
}

/// The tensors that tell a checkpoint's family: the U-Net's channels, the text's width, and which text encoders there are.
fn telling<'a>(channels: &'a [usize], width: &'a [usize], encoders: &[&'a str]) -> Vec<(&'a str, &'a [usize])> {
    let mut tensors: Vec<(&str, &[usize])> = vec![
        ("model.diffusion_model.input_blocks.0.0.weight", channels),
        ("model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight", width),
        ("first_stage_model.quant_conv.bias", &[8]),
    ];
    tensors.extend(encoders.iter().map(|name| (*name, &[4usize][..])));
    tensors
}

fn source(file: &NamedTempFile, turbo: bool) -> ModelSource {
    ModelSource::open(file.path(), turbo).unwrap()
}

fn json(source: &ModelSource, name: &str) -> Value {
    serde_json::from_str(&source.required_text(name).unwrap()).unwrap()
}

#[test]
fn the_family_and_its_configs_are_told_from_names_and_shapes() {
    let check = |channels: usize, width: usize, encoders: &[&str], turbo, expect: (&str, &str, u64)| {
        let (channels_shape, width_shape) = ([1, channels, 1, 1], [1, width]);
        let file = file(&telling(&channels_shape, &width_shape, encoders), &[]);
        let source = source(&file, turbo);
        let unet = json(&source, "unet/config.json");
        assert_eq!(unet["in_channels"], channels, "{expect:?}");
        let scheduler = source.required_text("scheduler/scheduler_config.json").unwrap();
        let scheduler = SchedulerConfig::parse(&scheduler).unwrap();
        let class = json(&source, "model_index.json")["_class_name"].clone();
        assert_eq!((class.as_str().unwrap(), scheduler.class_name(), unet["sample_size"].as_u64().unwrap()), expect);

        let unet = UNetConfig::parse(&unet.to_string(), "unet").unwrap();
        let text_encoder = |name: &str| ClipTextConfig::parse(&source.required_text(name).unwrap(), name).unwrap();
        let mut text_width = text_encoder("text_encoder/config.json").hidden_size;
        let (mut pads, xl) = (vec![source.tokenizer("tokenizer").unwrap().pad_id()], width == 2048);
        if xl {
            let second = text_encoder("text_encoder_2/config.json");
            assert!(second.has_projection());
            assert_eq!(unet.projection_class_embeddings_input_dim, Some(second.projection_dim + 6 * 256));
            text_width += second.hidden_size;
            pads.push(source.tokenizer("tokenizer_2").unwrap().pad_id());
        }
        assert_eq!((unet.context_width(), text_width), (width, width));
        let expect = if xl { vec![49407, 0] } else { vec![if width == 768 { 49407 } else { 0 }] };
        assert_eq!(pads, expect);
        let vae = source.required_text("vae/config.json").unwrap();
        let vae = AutoencoderKlConfig::parse(&vae, "vae").unwrap();
        assert_eq!(vae.scaling_factor, if xl { 0.13025 } else { 0.18215 });
    };
    let (sd, inpaint) = ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline");
    let (xl, xl_inpaint) = ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline");
    check(4, 768, &[SD1], false, (sd, "PNDMScheduler", 64));
    check(9, 768, &[SD1], false, (inpaint, "DDIMScheduler", 64));
    check(4, 1024, &[SD2], false, (sd, "DDIMScheduler", 96));
    check(9, 1024, &[SD2], false, (inpaint, "PNDMScheduler", 64));
    check(4, 1024, &[SD2], true, (sd, "EulerDiscreteScheduler", 64));
    check(4, 1024, &[SD2_AS_XL], false, (sd, "EulerDiscreteScheduler", 64));
    check(4, 2048, &XL, false, (xl, "EulerDiscreteScheduler", 128));
    check(9, 2048, &XL, false, (xl_inpaint, "EulerDiscreteScheduler", 128));
    check(4, 2048, &XL, true, (xl, "EulerAncestralDiscreteScheduler", 64));
}

#[test]
fn what_no_tensor_tells_is_taken_as_by_diffusers_or_from_the_files_marks() {
    let scheduler = |tensors: &[(&str, &[usize])], metadata: &[(&str, &str)]| {
        let file = file(tensors, metadata);
        let source = source(&file, false);
        let size = json(&source, "unet/config.json")["sample_size"].clone();
        (json(&source, "scheduler/scheduler_config.json"), size)
    };
    let (channels, width) = ([1, 4, 1, 1], [1, 1024]);
    let second = telling(&channels, &width, &[SD2]);
    let (config, size) = scheduler(&second, &[]);
    assert_eq!((config["prediction_type"].as_str(), size), (Some("v_prediction"), json!(96)));
    let (config, size) = scheduler(&second, &[("modelspec.prediction_type", "epsilon")]);
    assert_eq!((config["prediction_type"].as_str(), size), (Some("epsilon"), json!(64)));

    let width = [1, 2048];
    let mut xl = telling(&channels, &width, &XL);
    xl.extend([("v_pred", &[0usize][..]), ("ztsnr", &[0])]);
    let (config, _) = scheduler(&xl, &[]);
    assert_eq!(
        (config["prediction_type"].as_str(), &config["rescale_betas_zero_snr"]),
        (Some("v_prediction"), &json!(true))
    );

    let width = [1, 768];
    let mut lcm = telling(&channels, &width, &[SD1]);
    lcm.push(("model.diffusion_model.time_embed.cond_proj.weight", &[320, 256]));
    let file = file(&lcm, &[]);
    let source = source(&file, false);
    assert_eq!(json(&source, "unet/config.json")["time_cond_proj_dim"], 256);
    assert_eq!(json(&source, "scheduler/scheduler_config.json")["_class_name"], "LCMScheduler");
}

#[test]
fn what_is_no_checkpoint_is_told_what_it_is() {
    let refused = |tensors: &[(&str, &[usize])], expect: &str| {
        let file = file(tensors, &[]);
        let error = Checkpoint::open(file.path(), false).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()), "the file is not named: {error}");
        assert!(error.contains(expect), "{error:?} does not say {expect:?}");
    };
    let one = |name: &str, expect: &str| refused(&[(name, &[1])], expect);
    one("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", "is a LoRA");
    one("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "is a LoRA");
    one("control_model.input_hint_block.0.weight", "is a ControlNet");
    one("encoder.down.0.block.0.conv1.weight", "is an autoencoder alone");
    one("input_blocks.0.0.weight", "is a U-Net alone");
    one("down_blocks.0.resnets.0.conv1.weight", "one network of a diffusers folder");
    one("text_model.final_layer_norm.weight", "is a text encoder alone");
    one("emb_params", "is a textual inversion");
    one("model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight", "is Stable Diffusion 3");
    one("double_blocks.0.img_attn.qkv.weight", "is a Flux transformer");
    one("blocks.0.attn.weight", "is no checkpoint of Stable Diffusion");
    refused(&[], "is no checkpoint of Stable Diffusion");
    one("first_stage_model.quant_conv.bias", "has no U-Net (model.diffusion_model.…) and no text encoder");
    one("model.diffusion_model.out.2.bias", "has no autoencoder (vae.… or first_stage_model.…) and no text encoder");

    let with = |channels: usize, width: usize, encoders: &[&str], expect: &str| {
        refused(&telling(&[1, channels, 1, 1], &[1, width], encoders), expect);
    };
    with(8, 768, &[SD1], "is InstructPix2Pix: its U-Net takes 8 channels");
    with(5, 1024, &[SD2], "takes 5 channels, 4 or 9");
    with(4, 1280, &[SD2_AS_XL], "is SDXL's refiner");
    with(4, 512, &[SD1], "takes a text of width 512");
    with(4, 2048, &XL[..1], "only one of SDXL's two text encoders");

    let (channels, width) = ([1, 4, 1, 1], [1, 1024]);
    let mut unclip = telling(&channels, &width, &[SD2]);
    unclip.push(("model.diffusion_model.label_emb.0.0.weight", &[4]));
    refused(&unclip, "paints from pictures");
}

#[test]
fn what_is_no_safetensors_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8], expect: &str| {
        let path = folder.path().join(name);
        File::create(&path).unwrap().write_all(bytes).unwrap();
        let error = ModelSource::open(&path, false).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expect), "{error:?} does not say {expect:?}");
    };
    refused("model.ckpt", b"", "is a pickle file");
    refused("renamed.safetensors", b"PK\x03\x04 and so on", "is a pickle file under another name");
    refused("model.gguf", b"GGUF\x03\0\0\0\0\0\0\0", "is a GGUF file");
    refused("empty.safetensors", b"", "it may be truncated");
}
