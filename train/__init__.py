"""Training: recipes, the trainer that weighs named losses, and the stages."""
