"""mmalign for video: adapters over video pipelines of diffusers, video rewards, guidance, reading and writing of videos."""
