"""The Plan page."""

from playwright.sync_api import expect


def choose(page, label, value):
    box = page.get_by_test_id("stMain").get_by_label(label, exact=True)
    box.fill(value)
    box.press("Enter")


def test_what_fits_is_worked_out_and_pictured(workbench, visit):
    page = visit(workbench().url)
    page.get_by_role("link", name="Plan").click()
    expect(page.get_by_text("It fits.")).to_be_visible()
    expect(page.get_by_text("56 KiB")).to_be_visible()
    expect(page.locator("canvas, svg.marks")).to_have_count(2)
    choose(page, "Model", "qwen/qwen2.5-32b-instruct")
    expect(page.get_by_text("It does not fit: weights (")).to_be_visible()
    expect(page.get_by_text("It would fit on 4 of these GPUs.")).to_be_visible()
    page.get_by_test_id("stMain").get_by_label("Weights", exact=True).click()
    page.get_by_role("option", name="awq (4 bits)").click()
    expect(page.get_by_text("--quantization=awq").first).to_be_visible()
    choose(page, "Model", "smollm2:135m")
    # In groups of 128 its 576 values of attention cannot be cut.
    expect(page.get_by_text("Tensor parallel can be 1:")).to_be_visible()
    page.get_by_test_id("stMain").get_by_label("Weights", exact=True).click()
    page.get_by_role("option", name="as it is").click()
    expect(page.get_by_text("Tensor parallel can be 1, 3")).to_be_visible()
    choose(page, "Model", "nobody/knows-this")
    expect(page.get_by_text("give the model's config.json")).to_be_visible()
