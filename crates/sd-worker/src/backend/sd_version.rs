//! The families of Stable Diffusion that `--sd-version` names.

use std::str::FromStr;

use diffusion::pipeline::ModelInfo;

/// A family of models. Beside a model it is only a hint: the files' own configs decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SDVersion {
    /// Stable Diffusion 1.5
    #[value(name = "v1-5")]
    V1_5,
    /// Stable Diffusion 1.5 with a 9-channel U-Net
    #[value(name = "v1-5-inpaint")]
    V1_5Inpaint,
    /// Stable Diffusion 2.1
    #[value(name = "v2-1")]
    V2_1,
    /// Stable Diffusion 2 with a 9-channel U-Net
    #[value(name = "v2-inpaint")]
    V2Inpaint,
    /// Stable Diffusion XL
    #[value(name = "xl")]
    XL,
    /// Stable Diffusion XL with a 9-channel U-Net
    #[value(name = "xl-inpaint")]
    XLInpaint,
    /// SD-Turbo, which has the shape of 2.1 and paints in one step; a single file of SDXL's shape is SDXL-Turbo
    #[value(name = "turbo")]
    Turbo,
}

impl SDVersion {
    /// The name that `--sd-version` takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_5 => "v1-5",
            Self::V1_5Inpaint => "v1-5-inpaint",
            Self::V2_1 => "v2-1",
            Self::V2Inpaint => "v2-inpaint",
            Self::XL => "xl",
            Self::XLInpaint => "xl-inpaint",
            Self::Turbo => "turbo",
        }
    }

    /// Width of the text's hidden states that the released models of this family have.
    fn cross_attention_dim(self) -> usize {
        match self {
            Self::V1_5 | Self::V1_5Inpaint => 768,
            Self::V2_1 | Self::V2Inpaint | Self::Turbo => 1024,
            Self::XL | Self::XLInpaint => 2048,
        }
    }

    /// Where the loaded model's configs contradict this version, what they say.
    #[must_use]
    pub fn contradiction(self, info: &ModelInfo) -> Option<String> {
        let xl = matches!(self, Self::XL | Self::XLInpaint);
        let inpaint = matches!(self, Self::V1_5Inpaint | Self::V2Inpaint | Self::XLInpaint);
        let named = self.name();
        if self == Self::Turbo && info.xl && info.own_steps == Some(1) {
            return None;
        }
        if xl != info.xl {
            return Some(format!("--sd-version {named} contradicts {}: it is a {}", info.name, info.class));
        }
        if inpaint != (info.unet_in_channels != info.latent_channels) {
            return Some(format!(
                "--sd-version {named} contradicts {}: its U-Net has {} input channels",
                info.name, info.unet_in_channels
            ));
        }
        let widths = [768, 1024, 2048];
        if widths.contains(&info.cross_attention_dim) && info.cross_attention_dim != self.cross_attention_dim() {
            return Some(format!(
                "--sd-version {named} contradicts {}: its cross_attention_dim is {}, that family's is {}",
                info.name,
                info.cross_attention_dim,
                self.cross_attention_dim()
            ));
        }
        None
    }
}

/// A name that is no version.
#[derive(Debug, thiserror::Error)]
#[error("unknown version {0:?}; known are v1-5, v1-5-inpaint, v2-1, v2-inpaint, xl, xl-inpaint and turbo")]
pub struct UnknownVersion(String);

impl FromStr for SDVersion {
    type Err = UnknownVersion;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        <Self as clap::ValueEnum>::from_str(name, false).map_err(|_| UnknownVersion(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_name_leads_back_to_its_version() {
        for version in SDVersion::value_variants() {
            assert_eq!(<SDVersion as FromStr>::from_str(version.name()).unwrap(), *version);
        }
        assert!(<SDVersion as FromStr>::from_str("v3").unwrap_err().to_string().contains("\"v3\""));
    }
}
