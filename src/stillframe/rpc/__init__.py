"""Transport between an API process and its worker: short questions and answers. Durability is the journal's business."""
