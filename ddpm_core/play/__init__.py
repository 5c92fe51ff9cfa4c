"""A local page on which a trained run is played with. The only package that imports Gradio."""
